"""What the chapters share: options on the command line, figures with captions, data, a result line.

A chapter begins with an instance of `Chapter`, which has everything it shares with the others:

    from minidl.chapter import Chapter

    chapter = Chapter(__doc__, epochs=(5, "passes over the training images"))
    print(chapter.epochs, chapter.device, chapter.quick)
    chapter.keep(figure, "curves", "the two curves part after epoch 3: overfitting")
    chapter.result("test accuracy 97.5%")

`Runs` keeps the finished runs of an experiment in a file that an interrupted one continues from.
`sliding_window` draws a moving picture for `Chapter.play`, `shortest` says how long a call takes.
"""

from minidl.chapter.drawings import sliding_window as sliding_window
from minidl.chapter.runs import Runs as Runs
from minidl.chapter.start import IMAGES as IMAGES
from minidl.chapter.start import SENTENCES as SENTENCES
from minidl.chapter.start import Chapter as Chapter
from minidl.chapter.timing import shortest as shortest
