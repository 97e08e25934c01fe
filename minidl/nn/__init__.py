"""Layers, losses and networks as modules with parameters."""

from typing import TYPE_CHECKING

from minidl.idioms import unknown
from minidl.nn import init as init
from minidl.nn.activation import ELU as ELU
from minidl.nn.activation import GELU as GELU
from minidl.nn.activation import LeakyReLU as LeakyReLU
from minidl.nn.activation import LogSoftmax as LogSoftmax
from minidl.nn.activation import ReLU as ReLU
from minidl.nn.activation import Sigmoid as Sigmoid
from minidl.nn.activation import SiLU as SiLU
from minidl.nn.activation import Softmax as Softmax
from minidl.nn.activation import Softplus as Softplus
from minidl.nn.activation import Tanh as Tanh
from minidl.nn.attention import MultiheadAttention as MultiheadAttention
from minidl.nn.attention import PositionalEncoding as PositionalEncoding
from minidl.nn.collections import Identity as Identity
from minidl.nn.collections import ModuleDict as ModuleDict
from minidl.nn.containers import ModuleList as ModuleList
from minidl.nn.containers import Sequential as Sequential
from minidl.nn.convolution import Conv1d as Conv1d
from minidl.nn.convolution import Conv2d as Conv2d
from minidl.nn.convolution import ConvTranspose2d as ConvTranspose2d
from minidl.nn.deformable import DeformConv2d as DeformConv2d
from minidl.nn.embedding import Embedding as Embedding
from minidl.nn.linear import Dropout as Dropout
from minidl.nn.linear import Flatten as Flatten
from minidl.nn.linear import Linear as Linear
from minidl.nn.loss import BCEWithLogitsLoss as BCEWithLogitsLoss
from minidl.nn.loss import CrossEntropyLoss as CrossEntropyLoss
from minidl.nn.loss import L1Loss as L1Loss
from minidl.nn.loss import MSELoss as MSELoss
from minidl.nn.loss import NLLLoss as NLLLoss
from minidl.nn.loss_kinds import DiceLoss as DiceLoss
from minidl.nn.loss_kinds import FocalLoss as FocalLoss
from minidl.nn.loss_kinds import HuberLoss as HuberLoss
from minidl.nn.loss_kinds import SigmoidFocalLoss as SigmoidFocalLoss
from minidl.nn.loss_kinds import SmoothL1Loss as SmoothL1Loss
from minidl.nn.module import Buffer as Buffer
from minidl.nn.module import Module as Module
from minidl.nn.module import Parameter as Parameter
from minidl.nn.module import observe as observe
from minidl.nn.normalization import BatchNorm1d as BatchNorm1d
from minidl.nn.normalization import BatchNorm2d as BatchNorm2d
from minidl.nn.normalization import GroupNorm as GroupNorm
from minidl.nn.normalization import LayerNorm as LayerNorm
from minidl.nn.padding import CircularPad1d as CircularPad1d
from minidl.nn.padding import CircularPad2d as CircularPad2d
from minidl.nn.padding import ReflectionPad1d as ReflectionPad1d
from minidl.nn.padding import ReflectionPad2d as ReflectionPad2d
from minidl.nn.padding import ReplicationPad1d as ReplicationPad1d
from minidl.nn.padding import ReplicationPad2d as ReplicationPad2d
from minidl.nn.padding import ZeroPad1d as ZeroPad1d
from minidl.nn.padding import ZeroPad2d as ZeroPad2d
from minidl.nn.pooling.basic import AvgPool2d as AvgPool2d
from minidl.nn.pooling.basic import GlobalAvgPool as GlobalAvgPool
from minidl.nn.pooling.basic import MaxPool2d as MaxPool2d
from minidl.nn.pooling.boxes import RoIAlign2d as RoIAlign2d
from minidl.nn.pooling.boxes import RoIPool2d as RoIPool2d
from minidl.nn.pooling.learned import AttentionPool as AttentionPool
from minidl.nn.pooling.learned import GatedPool2d as GatedPool2d
from minidl.nn.pooling.learned import GeMPool1d as GeMPool1d
from minidl.nn.pooling.learned import GeMPool2d as GeMPool2d
from minidl.nn.pooling.learned import MixedPool1d as MixedPool1d
from minidl.nn.pooling.learned import MixedPool2d as MixedPool2d
from minidl.nn.pooling.learned import SoftmaxPool1d as SoftmaxPool1d
from minidl.nn.pooling.learned import SoftmaxPool2d as SoftmaxPool2d
from minidl.nn.pooling.sized import AdaptiveAvgPool1d as AdaptiveAvgPool1d
from minidl.nn.pooling.sized import AdaptiveAvgPool2d as AdaptiveAvgPool2d
from minidl.nn.pooling.sized import AdaptiveMaxPool1d as AdaptiveMaxPool1d
from minidl.nn.pooling.sized import AdaptiveMaxPool2d as AdaptiveMaxPool2d
from minidl.nn.pooling.sized import FractionalMaxPool2d as FractionalMaxPool2d
from minidl.nn.pooling.sized import GlobalMaxPool as GlobalMaxPool
from minidl.nn.pooling.sized import SpatialPyramidPool2d as SpatialPyramidPool2d
from minidl.nn.pooling.windows import AvgPool1d as AvgPool1d
from minidl.nn.pooling.windows import BlurPool2d as BlurPool2d
from minidl.nn.pooling.windows import ChannelAvgPool as ChannelAvgPool
from minidl.nn.pooling.windows import ChannelMaxPool as ChannelMaxPool
from minidl.nn.pooling.windows import ConvPool2d as ConvPool2d
from minidl.nn.pooling.windows import LPPool1d as LPPool1d
from minidl.nn.pooling.windows import LPPool2d as LPPool2d
from minidl.nn.pooling.windows import MaxBlurPool2d as MaxBlurPool2d
from minidl.nn.pooling.windows import MaxPool1d as MaxPool1d
from minidl.nn.pooling.windows import MaxUnpool1d as MaxUnpool1d
from minidl.nn.pooling.windows import MaxUnpool2d as MaxUnpool2d
from minidl.nn.pooling.windows import MinPool1d as MinPool1d
from minidl.nn.pooling.windows import MinPool2d as MinPool2d
from minidl.nn.pooling.windows import StochasticPool1d as StochasticPool1d
from minidl.nn.pooling.windows import StochasticPool2d as StochasticPool2d
from minidl.nn.recurrent import GRU as GRU
from minidl.nn.recurrent import LSTM as LSTM
from minidl.nn.resampling import Upsample as Upsample
from minidl.nn.transformer import TransformerEncoder as TransformerEncoder
from minidl.nn.transformer import TransformerEncoderLayer as TransformerEncoderLayer

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        raise unknown("minidl.nn", name)
