"""What makes the answers needs PyTorch or scikit-learn, which running the tests must not."""

collect_ignore = ["make.py", "make_metrics.py", "make_resnet.py", "torch_resnet.py"]
