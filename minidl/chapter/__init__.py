"""What the chapters share: options on the command line, figures with captions, data, a result line.

A chapter begins with an instance of `Chapter`, which has everything it shares with the others:

    from minidl.chapter import Chapter

    chapter = Chapter(__doc__, epochs=(5, "passes over the training images"))
    print(chapter.epochs, chapter.device, chapter.quick)
    chapter.keep(figure, "curves", "the two curves part after epoch 3: overfitting")
    chapter.result("test accuracy 97.5%")

`Runs` keeps the finished runs of an experiment in a file that an interrupted one continues from.
"""

from minidl.chapter.drawings import curves as curves
from minidl.chapter.drawings import gallery as gallery
from minidl.chapter.drawings import numbers as numbers
from minidl.chapter.drawings import sliding_pools as sliding_pools
from minidl.chapter.panels import side_by_side as side_by_side
from minidl.chapter.pixels import draw_map as draw_map
from minidl.chapter.pixels import draw_pixels as draw_pixels
from minidl.chapter.pixels import draw_responses as draw_responses
from minidl.chapter.pixels import draw_sliding as draw_sliding
from minidl.chapter.runs import Runs as Runs
from minidl.chapter.start import SENTENCES as SENTENCES
from minidl.chapter.start import Chapter as Chapter
from minidl.chapter.timing import shortest as shortest
