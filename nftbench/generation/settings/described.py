"""What a protocol says of settings that were learned."""

from nftbench.benchmark.schema import Protocol
from nftbench.generation.settings.effective import Effective


def as_drawn(protocol: Protocol, settings: Effective) -> Protocol:
    """The protocol with what will really be drawn in every field."""
    further = " ".join(f"{k}={v}" for k, v in sorted(settings.further.items()))
    return protocol.model_copy(
        update={
            "height": settings.height,
            "width": settings.width,
            "num_inference_steps": settings.num_inference_steps,
            "guidance": settings.guidance,
            "guidance_scale": settings.guidance_scale,
            "max_sequence_length": settings.max_sequence_length,
            "negative_prompt": settings.negative_prompt,
            "network_calls": settings.network_calls,
            "further": further or None,
            "solver": settings.solver,
            "text_encoders": settings.text_encoders,
            "precision": settings.precision,
        }
    )
