"""Tokenizers: frames to codes and back (VQ-VAE)."""

from worldmodel.tokenizer.causal_tokenizer import CausalTokenizer
from worldmodel.tokenizer.codebook import Codebook, CodebookOutput
from worldmodel.tokenizer.stream_state import StreamState
from worldmodel.tokenizer.tokenizer import Tokenizer
from worldmodel.tokenizer.tokenizer_config import PAPER_BAIR, PAPER_MOVING_MNIST, PAPER_UCF, TokenizerConfig
from worldmodel.tokenizer.vqvae import ClipTokenizer, FrameTokenizer, make_tokenizer

__all__ = [
    "PAPER_BAIR",
    "PAPER_MOVING_MNIST",
    "PAPER_UCF",
    "CausalTokenizer",
    "ClipTokenizer",
    "Codebook",
    "CodebookOutput",
    "FrameTokenizer",
    "StreamState",
    "Tokenizer",
    "TokenizerConfig",
    "make_tokenizer",
]
