"""New class activation map methods and honest metrics for pytorch-grad-cam, Captum and Quantus.

The classes for pytorch-grad-cam are here by name (`cam_extras.ShapleyCAM`), next to its own that we do not have
(`cam_extras.FullGrad`); `cam_extras.captum` and `cam_extras.quantus` have those for the other two libraries;
`cam_extras.evaluate` explains and scores a data set. Importing this package imports none of the three.
"""

# Written by tools/generate.py: edit the methods, and run it again.

from cam_extras.pytorch_grad_cam import CAM as CAM
from cam_extras.pytorch_grad_cam import FEM as FEM
from cam_extras.pytorch_grad_cam import ISCAM as ISCAM
from cam_extras.pytorch_grad_cam import KPCA_CAM as KPCA_CAM
from cam_extras.pytorch_grad_cam import SESS as SESS
from cam_extras.pytorch_grad_cam import SSCAM as SSCAM
from cam_extras.pytorch_grad_cam import AblationCAM as AblationCAM
from cam_extras.pytorch_grad_cam import AblationLayer as AblationLayer
from cam_extras.pytorch_grad_cam import AblationLayerFasterRCNN as AblationLayerFasterRCNN
from cam_extras.pytorch_grad_cam import AblationLayerVit as AblationLayerVit
from cam_extras.pytorch_grad_cam import ActivationsAndGradients as ActivationsAndGradients
from cam_extras.pytorch_grad_cam import AttentionRollout as AttentionRollout
from cam_extras.pytorch_grad_cam import DeepFeatureFactorization as DeepFeatureFactorization
from cam_extras.pytorch_grad_cam import EigenCAM as EigenCAM
from cam_extras.pytorch_grad_cam import EigenGradCAM as EigenGradCAM
from cam_extras.pytorch_grad_cam import ExpectedGradCAM as ExpectedGradCAM
from cam_extras.pytorch_grad_cam import FakeCAM as FakeCAM
from cam_extras.pytorch_grad_cam import FinerCAM as FinerCAM
from cam_extras.pytorch_grad_cam import FullGrad as FullGrad
from cam_extras.pytorch_grad_cam import GradCAM as GradCAM
from cam_extras.pytorch_grad_cam import GradCAMElementWise as GradCAMElementWise
from cam_extras.pytorch_grad_cam import GradCAMPlusPlus as GradCAMPlusPlus
from cam_extras.pytorch_grad_cam import GuidedBackpropReLUModel as GuidedBackpropReLUModel
from cam_extras.pytorch_grad_cam import HiResCAM as HiResCAM
from cam_extras.pytorch_grad_cam import IntegratedGradCAM as IntegratedGradCAM
from cam_extras.pytorch_grad_cam import LayerCAM as LayerCAM
from cam_extras.pytorch_grad_cam import LeGrad as LeGrad
from cam_extras.pytorch_grad_cam import MIGradCAM as MIGradCAM
from cam_extras.pytorch_grad_cam import OptiCAM as OptiCAM
from cam_extras.pytorch_grad_cam import RandomCAM as RandomCAM
from cam_extras.pytorch_grad_cam import RawAttention as RawAttention
from cam_extras.pytorch_grad_cam import RefineCAM as RefineCAM
from cam_extras.pytorch_grad_cam import ScoreCAM as ScoreCAM
from cam_extras.pytorch_grad_cam import SegEigenCAM as SegEigenCAM
from cam_extras.pytorch_grad_cam import ShapleyCAM as ShapleyCAM
from cam_extras.pytorch_grad_cam import ShapleyCAME as ShapleyCAME
from cam_extras.pytorch_grad_cam import ShapleyCAMH as ShapleyCAMH
from cam_extras.pytorch_grad_cam import SmoothGradCAMPlusPlus as SmoothGradCAMPlusPlus
from cam_extras.pytorch_grad_cam import XGradCAM as XGradCAM
from cam_extras.pytorch_grad_cam import run_dff_on_image as run_dff_on_image
from cam_extras.run import evaluate as evaluate

__version__: str
