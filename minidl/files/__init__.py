"""Files: atomic writing, locks, downloads, weights, checkpoints, and archives.

No file need be trusted. Readers execute nothing (pickles are read as data), use a bounded amount of
memory and time (see `budget`), and raise ValueError for a damaged file; `python -m tests.fuzz`
tests this.
"""

from minidl.files.checkpoint import load_checkpoint as load_checkpoint
from minidl.files.checkpoint import save_checkpoint as save_checkpoint
from minidl.files.download import download as download
from minidl.files.weights import load_weights as load_weights
from minidl.files.weights import save_weights as save_weights
from minidl.files.whole import clear_parts as clear_parts
from minidl.files.whole import whole_file as whole_file
