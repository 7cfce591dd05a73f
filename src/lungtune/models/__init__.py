"""Backbones: CLIP, latent diffusion, timm's models, Conformer, U-Net; their weights and exports."""
