"""The reference networks."""

from minidl.models.cifar10_cnn import cifar10_cnn as cifar10_cnn
from minidl.models.resnet import BasicBlock as BasicBlock
from minidl.models.resnet import Bottleneck as Bottleneck
from minidl.models.resnet import CifarResNet as CifarResNet
from minidl.models.resnet import ResNet as ResNet
from minidl.models.resnet import resnet18 as resnet18
from minidl.models.resnet import resnet20 as resnet20
from minidl.models.resnet import resnet32 as resnet32
from minidl.models.resnet import resnet34 as resnet34
from minidl.models.resnet import resnet44 as resnet44
from minidl.models.resnet import resnet50 as resnet50
from minidl.models.resnet import resnet56 as resnet56
from minidl.models.sentence_classifier import SentenceClassifier as SentenceClassifier
from minidl.models.text_cnn import BagOfWords as BagOfWords
from minidl.models.text_cnn import TextCNN as TextCNN
