"""What the chapters share: options on the command line, figures with captions, data, a result line.

from minidl.chapter import Chapter

chapter = Chapter(__doc__, epochs=(5, "passes over the training images"))
print(chapter.epochs, chapter.device, chapter.quick)
chapter.keep(figure, "curves", "the two curves part after epoch 3: overfitting")
chapter.result("test accuracy 97.5%")
"""

from minidl.chapter.start import Chapter as Chapter
