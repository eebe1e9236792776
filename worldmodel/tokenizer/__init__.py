"""The tokenizer: frames to codes and back."""

from worldmodel.tokenizer.codebook import Codebook
from worldmodel.tokenizer.vqvae import FrameTokenizer, TokenizerConfig

__all__ = ["Codebook", "FrameTokenizer", "TokenizerConfig"]
