# What diffusers exports: pyright does not follow its lazy imports, and takes these names for private ones.
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL as AutoencoderKL
from diffusers.models.modeling_utils import ModelMixin as ModelMixin
from diffusers.models.transformers.transformer_sd3 import (
    SD3Transformer2DModel as SD3Transformer2DModel,
)
from diffusers.pipelines.pipeline_utils import DiffusionPipeline as DiffusionPipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import (
    StableDiffusion3Pipeline as StableDiffusion3Pipeline,
)
from diffusers.quantizers.pipe_quant_config import (
    PipelineQuantizationConfig as PipelineQuantizationConfig,
)
from diffusers.quantizers.quantization_config import BitsAndBytesConfig as BitsAndBytesConfig
from diffusers.quantizers.quantization_config import TorchAoConfig as TorchAoConfig
from diffusers.schedulers.scheduling_ddim import DDIMScheduler as DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import (
    DPMSolverMultistepScheduler as DPMSolverMultistepScheduler,
)
from diffusers.schedulers.scheduling_euler_discrete import (
    EulerDiscreteScheduler as EulerDiscreteScheduler,
)
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler as FlowMatchEulerDiscreteScheduler,
)
from diffusers.schedulers.scheduling_unipc_multistep import (
    UniPCMultistepScheduler as UniPCMultistepScheduler,
)
