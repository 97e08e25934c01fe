"""`make.py` needs PyTorch, which running the tests must not."""

collect_ignore = ["make.py", "make_resnet.py", "torch_resnet.py"]
