"""Every public name of an earlier version can still be imported from the same module."""

from __future__ import annotations

import importlib

import pytest

# The names that each package listed as public before its files were moved; chapters, notebooks and
# other people's code use them.
NAMES = {
    "minidl": """
        Tensor arange capture checkpointed concatenate data detect_anomaly einsum full functional
        get_deterministic get_num_threads get_tf32 grad gradcheck hessian hvp inspect
        jacobian manual_seed maximum minimum models nn no_grad ones optim pad rand randn
        set_deterministic set_num_threads set_tf32 stack training where zeros
    """,
    "minidl.backends": """
        Array Backend Update Windows backend_for backend_of register
    """,
    "minidl.data": """
        BucketLoader Compose Cutout DataLoader ImageSet Normalize RandomCrop
        RandomHorizontalFlip SceneSet TextSet Vocabulary datasets_folder download load_cifar10
        load_image_folder load_mr load_scene_folder load_toy10
        load_toy_reviews load_toy_scenes read_lines read_table tokenize
    """,
    "minidl.functional": """
        adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d
        attention_pool1d attention_pool2d avg_pool1d avg_pool2d batch_norm
        binary_cross_entropy_with_logits blur_pool2d channel_avg_pool channel_max_pool
        conv1d conv2d conv2d_relu conv2d_relu_max_pool2d conv_pool2d conv_transpose2d
        cross_entropy dropout elu embedding fractional_max_pool2d gated_pool2d gelu
        gem_pool1d gem_pool2d global_avg_pool1d global_avg_pool2d global_max_pool1d
        global_max_pool2d group_norm l1_loss layer_norm leaky_relu linear log_softmax
        lp_pool1d lp_pool2d max_blur_pool2d max_pool1d max_pool2d max_unpool1d max_unpool2d
        min_pool1d min_pool2d mixed_pool1d mixed_pool2d mse_loss nll_loss relu sigmoid silu
        softmax softmax_pool1d softmax_pool2d softplus spatial_pyramid_pool2d
        stochastic_pool1d stochastic_pool2d
    """,
    "minidl.inspect": """
        GradcheckError GradcheckReport Graph GraphNode InputCheck Layer Summary grad_cam
        gradcheck gradient_flow graph multiply_adds plots pooling_effects record_lines saliency
        sentences summary
    """,
    "minidl.models": """
        BagOfWords BasicBlock Bottleneck CifarResNet ResNet SentenceClassifier TextCNN
        cifar10_cnn resnet18 resnet20 resnet32 resnet34 resnet44 resnet50 resnet56
    """,
    "minidl.nn": """
        ELU GELU AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveMaxPool1d AdaptiveMaxPool2d
        AttentionPool AvgPool1d AvgPool2d BCEWithLogitsLoss BatchNorm1d BatchNorm2d
        BlurPool2d Buffer ChannelAvgPool ChannelMaxPool Conv1d Conv2d ConvPool2d
        ConvTranspose2d CrossEntropyLoss Dropout Embedding Flatten FractionalMaxPool2d
        GatedPool2d GeMPool1d GeMPool2d GlobalAvgPool GlobalMaxPool GroupNorm L1Loss
        LPPool1d LPPool2d LayerNorm LeakyReLU Linear LogSoftmax MSELoss MaxBlurPool2d
        MaxPool1d MaxPool2d MaxUnpool1d MaxUnpool2d MinPool1d MinPool2d MixedPool1d
        MixedPool2d Module ModuleList NLLLoss Parameter ReLU Sequential SiLU Sigmoid Softmax
        SoftmaxPool1d SoftmaxPool2d Softplus SpatialPyramidPool2d StochasticPool1d
        StochasticPool2d Tanh init observe
    """,
    "minidl.optim": """
        SGD Adam AdamW CosineAnnealingLR LinearLR MultiStepLR OneCycleLR Optimizer RMSprop
        Schedule SequentialLR StepLR clip_grad_norm_
    """,
    "minidl.training": """
        History Run Scores TrainingWarning accuracy boundary_f1 class_iou class_scores
        confusion_matrix evaluate fit load_checkpoint load_weights macro_scores mean_iou
        micro_scores overfit_one_batch predict save_checkpoint save_weights top_k_accuracy
    """,
    "minidl.tensor": "Tensor record",
    "minidl.autograd": "Gradients no_grad",
    "minidl.random": "generator manual_seed",
    "minidl.nn.init": "kaiming_normal_ kaiming_uniform_ normal_ uniform_",
}


@pytest.mark.parametrize("path", [f"{p}.{n}" for p, names in NAMES.items() for n in names.split()])
def test_an_earlier_name_still_imports(path):
    package, _, name = path.rpartition(".")
    assert getattr(importlib.import_module(package), name) is not None
