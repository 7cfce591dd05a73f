"""Latent diffusion adapted by LoRA: generates X-rays of a class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lungtune.core.family import LoraTarget
from lungtune.core.params import param
from lungtune.models import clip_weights, diffusion_weights
from lungtune.models.params import Balance, Loop
from lungtune.tasks.generation import Generation, GenerativeFamily

if TYPE_CHECKING:
    import torch

    from lungtune.inputs.batch import Batch
    from lungtune.layers.layout import BatchLayout
    from lungtune.models.diffusion_model import Diffusion

_HEADS = r"to_q|to_k|to_v|to_out\.0"
_TARGETS = {
    "cross": (rf"attn2\.({_HEADS})",),
    "attn": (rf"attn[12]\.({_HEADS})",),
    "attn_ff": (rf"attn[12]\.({_HEADS})", r"ff\.net\.(0\.proj|2)"),
}
_NOISE = 1
"""Noise and steps use a random stream separate from the adapters' dropout."""
_TEXT = r"(q_proj|k_proj|v_proj|out_proj)"


@dataclass(frozen=True)
class SdLoraBase:
    """The frozen latent-diffusion model, and the CLIP that judges what it draws."""

    weights: str = param(
        "stable-diffusion-2",
        help="repository of the hub, tiny_diffusion (shipped with lungtune), or a folder in diffusers' layout",
    )
    image_size: int = param(768, low=16, high=2048, unit="px", help="side of the square images it draws")
    views: int = param(1, low=0, high=64, help="augmented views of an image whose latents are kept; 0 keeps none")
    samples: int = param(64, low=2, high=4096, unit="images", help="images of each class drawn for a report")
    judge: str = param("ViT-L-14", help="open_clip's name of the judging CLIP; not read when judge_weights is a folder")
    judge_weights: str = param("openai", help="tag of the hub, tiny_clip, or a folder in open_clip's local-dir format")
    judge_size: int = param(224, low=16, high=1024, unit="px", help="side of the images the judge sees")


@dataclass(frozen=True)
class SdLoraParams(Balance, Loop):
    """Hyperparameters of a trial. The defaults are the configuration that the source project intended."""

    lr: float = param(1e-4, low=1e-7, high=1.0, help="peak learning rate")
    weight_decay: float = param(
        0.01, low=0.0, high=1.0, help="weight decay: decoupled for adamw, added to the gradient for adam and sgd"
    )
    batch_size: int = param(4, low=1, high=512, unit="images", help="images of one optimiser step")
    augmentation: int = param(0, low=0, high=3, help="strength of X-ray-safe augmentation; 0 none, 3 with flips")
    lora_rank: int = param(4, low=1, high=256, structural=True, help="rank r of every adapter")
    lora_alpha: float = param(16.0, low=0.01, high=1024.0, help="strength: an adapter is scaled by alpha / rank")
    lora_dropout: float = param(0.1, low=0.0, high=0.9, help="share of an adapter's input features dropped in training")
    lora_targets: str = param(
        "attn",
        choices=tuple(_TARGETS),
        structural=True,
        help="layers of the UNet adapted: attention to the caption, all, and beyond",
    )
    lora_text: bool = param(False, structural=True, help="adapt the text encoder's attention too")
    caption_dropout: float = param(0.1, low=0.0, high=0.9, help="share of images trained on without their caption")
    snr_cap: float = param(5.0, low=0.0, high=100.0, help="cap of the loss weight of easy steps (min-SNR); 0: none")
    prompt_style: str = param(
        "paper", choices=("paper", "plain", "clinical"), help="how the classes are put into words"
    )
    guidance: float = param(7.5, low=1.0, high=30.0, help="classifier-free guidance when drawing; 1: none")
    sampler: str = param("ddim", choices=("ddim", "dpm++"), help="how noise becomes an image")
    sampler_steps: int = param(50, low=1, high=1000, help="steps of the sampler")


class SdLora(GenerativeFamily[SdLoraBase, SdLoraParams]):
    """A Stable Diffusion whose UNet, and text encoder if wanted, is adapted to the images of each class's caption."""

    summary: ClassVar[str] = "Stable Diffusion with LoRA, drawing X-rays of each class"
    tasks = (Generation(),)
    Base = SdLoraBase
    Params = SdLoraParams

    def check(self, base: SdLoraBase) -> None:
        """See ``Family.check``. Downloads from the hub when it answers within five seconds.

        Raises:
            SpaceError: images of this size do not pass through the model.
        """
        diffusion_weights.fits(diffusion_weights.find(base.weights, fetch=True), base.image_size)
        clip_weights.find(base.judge, base.judge_weights, fetch=True)

    def miniature(self, folder: Path) -> SdLoraBase:
        """See ``Family.miniature``: latents of 8 px, 16 channels; a CLIP of two blocks judges."""
        from lungtune.models import clip_model, diffusion_model

        diffusion_model.write_random(folder / "diffusion")
        clip_model.write_random(folder / "judge")
        judge = str(folder / "judge")
        return SdLoraBase(str(folder / "diffusion"), image_size=16, samples=4, judge_weights=judge, judge_size=16)

    def backbone(self, base: SdLoraBase, classes: Sequence[str]) -> torch.nn.Module:
        """See ``Family.backbone``."""
        from lungtune.models import diffusion_model

        model = diffusion_model.Diffusion(diffusion_weights.find(base.weights, fetch=True), classes, _styles())
        model.image_size = base.image_size
        return model.eval()

    def lora_targets(self, model: Diffusion, params: SdLoraParams) -> Sequence[LoraTarget]:
        """See ``Family.lora_targets``: one pattern for each kind of layer, so that each must match."""
        patterns = [rf"unet\..*\.{name}" for name in _TARGETS[params.lora_targets]]
        patterns += [rf"text_encoder\..*\.{_TEXT}"] if params.lora_text else []
        return [LoraTarget(p, params.lora_rank, params.lora_alpha, params.lora_dropout) for p in patterns]

    def features(self, model: Diffusion, batch: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """See ``Family.features``: ``moments``, mean and log-variance of the latents ``(N, 2 c, h, w)``."""
        return {"moments": model.moments(batch["image"]).float()}

    def losses(self, model: Diffusion, batch: Batch, layout: BatchLayout) -> torch.Tensor:
        """See ``Family.losses``: mean squared error of the UNet's noise or velocity."""
        import torch

        from lungtune.layers.layout import derive_seed

        inputs = batch["moments"]
        device = inputs.device
        contexts = model.contexts(layout, [i for i, p in enumerate(layout.params) if p.lora_text])
        prompts, latent_noise, noises, times, weights = [], [], [], [], []
        half = inputs.shape[1] // 2
        for i, rows in enumerate(layout.rows):
            params, count = layout.params[i], rows.stop - rows.start
            generator = torch.Generator(device).manual_seed(derive_seed(layout.drawing(i), _NOISE))
            drawn = torch.randn(2, count, half, *inputs.shape[2:], generator=generator, device=device)
            steps = torch.randint(len(model.kept), (count,), generator=generator, device=device)
            dropped = torch.rand(count, generator=generator, device=device) < params.caption_dropout
            captions = torch.where(dropped, len(contexts[i]) - 1, batch["label"][rows])
            prompts.append(contexts[i][captions])
            latent_noise.append(drawn[0])
            noises.append(drawn[1])
            times.append(steps)
            weights.append(model.balance(steps, params.snr_cap) if params.snr_cap else torch.ones_like(dropped).float())
        mean, spread = inputs.chunk(2, 1)
        latents = mean + (0.5 * spread.clamp(-30, 20)).exp() * torch.cat(latent_noise)
        noised, wanted = model.noised(latents * model.vae.config.scaling_factor, torch.cat(noises), torch.cat(times))
        predicted = model.unet(noised, torch.cat(times), encoder_hidden_states=torch.cat(prompts)).sample
        return (predicted.float() - wanted).square().mean((1, 2, 3)) * torch.cat(weights) * batch.weights

    def draw(self, model: Diffusion, labels: Sequence[int], seeds: Sequence[int], layout: BatchLayout) -> torch.Tensor:
        """See ``GenerativeFamily.draw``."""
        return model.draw(labels, seeds, model.image_size, layout, layout.params[0].lora_text)

    def embedder(self, base: SdLoraBase, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
        """See ``GenerativeFamily.embedder``: the normalised embeddings of the judging CLIP's image tower."""
        import torch

        from lungtune.models import clip_model
        from lungtune.trainables import clip_lora

        clip = clip_model.plain_clip(clip_lora.ClipLoraBase(base.judge, base.judge_weights, base.judge_size))
        tower = clip_model.ClipImages(clip).requires_grad_(False).eval().to(device)

        @torch.no_grad()
        def embed(images: torch.Tensor) -> torch.Tensor:
            if images.shape[-1] != base.judge_size:
                images = torch.nn.functional.interpolate(
                    images, (base.judge_size,) * 2, mode="bicubic", antialias=True
                ).clamp(0, 1)
            return tower.image_features(images)

        return embed

    def content(self, base: SdLoraBase) -> str:
        """See ``GenerativeFamily.content``."""
        return diffusion_weights.content(diffusion_weights.find(base.weights, fetch=True))

    def captions(self, params: SdLoraParams, classes: Sequence[str]) -> list[str]:
        """See ``GenerativeFamily.captions``."""
        from lungtune.models.clip_prompts import prompts

        return [each[0] for each in prompts(classes, params.prompt_style)]

    def export(
        self, base: SdLoraBase, params: SdLoraParams, classes: Sequence[str], adapter: dict[str, Any], folder: Path
    ) -> None:
        """See ``Family.export``: the adapters in diffusers' LoRA format."""
        from lungtune.models import diffusion_export

        diffusion_export.write(base, params, self.captions(params, classes), classes, adapter, folder)


def _styles() -> tuple[str, ...]:
    return tuple(SdLoraParams.__dataclass_fields__["prompt_style"].metadata["lungtune"]["choices"])


FAMILY = SdLora()
