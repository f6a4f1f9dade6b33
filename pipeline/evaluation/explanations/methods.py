"""The method that fits a network: LeGrad for global attention, LayerCAM for feature maps."""

import torch

from pipeline.errors import PipelineError
from pipeline.evaluation.explanations.layercam import LayerCam
from pipeline.evaluation.explanations.legrad import LeGrad
from pipeline.evaluation.explanations.relevance import Method
from pipeline.models.checkpoint import family
from pipeline.models.classifier import ImageClassifier
from pipeline.models.resolution import patch_size


def find_method(classifier: ImageClassifier) -> Method:
    """Return the method that explains a network. One image of noise shows what its blocks return.

    Raises:
        PipelineError: If the network has neither global attention that transformers computes nor feature maps.
    """
    model, size = classifier.model, classifier.input_size
    noise = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(model.device)
    method = LeGrad.of(model, noise, patch_grid(classifier)) or LayerCam.of(model, size)
    if method is None:
        raise PipelineError(
            f"explain does not support {family(classifier.model.config)}, whose attention maps cannot be read: "
            "use a ViT, DeiT, BEiT, DINOv2, SigLIP, Swin, ConvNeXt or ResNet of transformers"
        )
    return method


def find_legrad(classifier: ImageClassifier) -> LeGrad:
    """Return LeGrad for a network with patches and global attention.

    Raises:
        PipelineError: If the network is another one.
    """
    method = find_method(classifier)
    if not isinstance(method, LeGrad):
        raise PipelineError(
            f"--tour does not support {family(classifier.model.config)}, whose patches do not attend to all others: "
            "use a ViT, DeiT, BEiT, DINOv2 or SigLIP, or remove --tour"
        )
    return method


def patch_grid(classifier: ImageClassifier) -> tuple[int, int]:
    """Return rows and columns of the patches of an image."""
    height, width = classifier.input_size
    side = patch_size(classifier.model.config)
    return height // side, width // side
