"""Neural network operations as functions, each with its gradient. README.md: how to add one."""

from typing import TYPE_CHECKING

from minidl.functional.activation import elu as elu
from minidl.functional.activation import gelu as gelu
from minidl.functional.activation import leaky_relu as leaky_relu
from minidl.functional.activation import log_softmax as log_softmax
from minidl.functional.activation import relu as relu
from minidl.functional.activation import sigmoid as sigmoid
from minidl.functional.activation import silu as silu
from minidl.functional.activation import softmax as softmax
from minidl.functional.activation import softplus as softplus
from minidl.functional.attention import scaled_dot_product_attention as scaled_dot_product_attention
from minidl.functional.convolution import conv1d as conv1d
from minidl.functional.convolution import conv2d as conv2d
from minidl.functional.convolution import conv_transpose2d as conv_transpose2d
from minidl.functional.deformable import deform_conv2d as deform_conv2d
from minidl.functional.embedding import embedding as embedding
from minidl.functional.fused import conv2d_relu as conv2d_relu
from minidl.functional.fused import conv2d_relu_max_pool2d as conv2d_relu_max_pool2d
from minidl.functional.fused import pending_batch_norm as pending_batch_norm
from minidl.functional.fused import pending_conv2d as pending_conv2d
from minidl.functional.linear import dropout as dropout
from minidl.functional.linear import linear as linear
from minidl.functional.loss import (
    binary_cross_entropy_with_logits as binary_cross_entropy_with_logits,
)
from minidl.functional.loss import cross_entropy as cross_entropy
from minidl.functional.loss import l1_loss as l1_loss
from minidl.functional.loss import mse_loss as mse_loss
from minidl.functional.loss import nll_loss as nll_loss
from minidl.functional.loss_kinds import dice_loss as dice_loss
from minidl.functional.loss_kinds import focal_loss as focal_loss
from minidl.functional.loss_kinds import huber_loss as huber_loss
from minidl.functional.loss_kinds import pixel_cross_entropy as pixel_cross_entropy
from minidl.functional.loss_kinds import sigmoid_focal_loss as sigmoid_focal_loss
from minidl.functional.loss_kinds import smooth_l1_loss as smooth_l1_loss
from minidl.functional.normalization import batch_norm as batch_norm
from minidl.functional.normalization import group_norm as group_norm
from minidl.functional.normalization import layer_norm as layer_norm
from minidl.functional.pooling.basic import avg_pool2d as avg_pool2d
from minidl.functional.pooling.basic import global_avg_pool2d as global_avg_pool2d
from minidl.functional.pooling.basic import max_pool2d as max_pool2d
from minidl.functional.pooling.boxes import roi_align2d as roi_align2d
from minidl.functional.pooling.boxes import roi_pool2d as roi_pool2d
from minidl.functional.pooling.drawn import fractional_max_pool2d as fractional_max_pool2d
from minidl.functional.pooling.drawn import stochastic_pool1d as stochastic_pool1d
from minidl.functional.pooling.drawn import stochastic_pool2d as stochastic_pool2d
from minidl.functional.pooling.kinds import avg_pool1d as avg_pool1d
from minidl.functional.pooling.kinds import blur_pool2d as blur_pool2d
from minidl.functional.pooling.kinds import channel_avg_pool as channel_avg_pool
from minidl.functional.pooling.kinds import channel_max_pool as channel_max_pool
from minidl.functional.pooling.kinds import conv_pool2d as conv_pool2d
from minidl.functional.pooling.kinds import lp_pool1d as lp_pool1d
from minidl.functional.pooling.kinds import lp_pool2d as lp_pool2d
from minidl.functional.pooling.kinds import max_blur_pool2d as max_blur_pool2d
from minidl.functional.pooling.kinds import max_pool1d as max_pool1d
from minidl.functional.pooling.kinds import max_unpool1d as max_unpool1d
from minidl.functional.pooling.kinds import max_unpool2d as max_unpool2d
from minidl.functional.pooling.kinds import min_pool1d as min_pool1d
from minidl.functional.pooling.kinds import min_pool2d as min_pool2d
from minidl.functional.pooling.learned import attention_pool1d as attention_pool1d
from minidl.functional.pooling.learned import attention_pool2d as attention_pool2d
from minidl.functional.pooling.learned import gated_pool2d as gated_pool2d
from minidl.functional.pooling.learned import gem_pool1d as gem_pool1d
from minidl.functional.pooling.learned import gem_pool2d as gem_pool2d
from minidl.functional.pooling.learned import mixed_pool1d as mixed_pool1d
from minidl.functional.pooling.learned import mixed_pool2d as mixed_pool2d
from minidl.functional.pooling.learned import softmax_pool1d as softmax_pool1d
from minidl.functional.pooling.learned import softmax_pool2d as softmax_pool2d
from minidl.functional.pooling.sequences import masked_attention_pool1d as masked_attention_pool1d
from minidl.functional.pooling.sequences import masked_avg_pool1d as masked_avg_pool1d
from minidl.functional.pooling.sequences import masked_max_pool1d as masked_max_pool1d
from minidl.functional.pooling.sized import adaptive_avg_pool1d as adaptive_avg_pool1d
from minidl.functional.pooling.sized import adaptive_avg_pool2d as adaptive_avg_pool2d
from minidl.functional.pooling.sized import adaptive_max_pool1d as adaptive_max_pool1d
from minidl.functional.pooling.sized import adaptive_max_pool2d as adaptive_max_pool2d
from minidl.functional.pooling.sized import global_avg_pool1d as global_avg_pool1d
from minidl.functional.pooling.sized import global_max_pool1d as global_max_pool1d
from minidl.functional.pooling.sized import global_max_pool2d as global_max_pool2d
from minidl.functional.pooling.sized import spatial_pyramid_pool2d as spatial_pyramid_pool2d
from minidl.functional.recurrent import gru as gru
from minidl.functional.recurrent import lstm as lstm
from minidl.functional.resampling import interpolate as interpolate
from minidl.idioms import unknown

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        raise unknown("minidl.functional", name)
