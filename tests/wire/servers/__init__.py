"""One scripted server per backend type: what its documentation and its public source say that it answers, and nothing
else (what it does not have is 404). The variants that only some tests want are in the modules: `from servers.x import Y`."""

from .base import CHAT_ID, Server
from .docker_model_runner import Dmr
from .gpustack import Gpustack
from .lemonade import Lemonade
from .litellm import Litellm
from .llamacpp import Llamacpp, LlamacppWithTags
from .lm_studio import LmStudio, LmStudioSaysYes
from .lmdeploy import Lmdeploy
from .localai import Localai
from .ollama import Ollama
from .omlx import Omlx
from .openai_compatible import Compatible
from .sglang import Sglang
from .vllm import Vllm
from .vllm_mlx import VllmMlx

KINDS = (Ollama, Llamacpp, Vllm, VllmMlx, Omlx, Sglang, Lmdeploy, LmStudio, Lemonade, Litellm, Dmr, Localai, Gpustack, Compatible)

__all__ = ["CHAT_ID", "KINDS", "Compatible", "Dmr", "Gpustack", "Lemonade", "Litellm", "Llamacpp", "LlamacppWithTags", "LmStudio",
           "LmStudioSaysYes", "Lmdeploy", "Localai", "Ollama", "Omlx", "Server", "Sglang", "Vllm", "VllmMlx"]
