"""segment-anything is whole for whoever asks for it, and nobody pays for what they do not ask for."""

from __future__ import annotations

import subprocess
import sys

import pytest
from console import environment

OURS = "import sys; import hela_store.training.finetune, hela_store.predictor.load"
WHOLE = """
everything = {}
exec("from segment_anything import *", everything)
assert {"SamPredictor", "SamAutomaticMaskGenerator", "sam_model_registry"} <= everything.keys()
import segment_anything, segment_anything.modeling
import hela_store.sam.modeling as ours
assert segment_anything.SamPredictor.__module__ == "segment_anything.predictor"
assert segment_anything.modeling.Sam is ours.Sam is segment_anything.predictor.Sam
assert segment_anything.sam_model_registry is ours.sam_model_registry
assert "torchvision" in sys.modules
try:
    segment_anything.nothing
except AttributeError as error:
    assert "has no attribute 'nothing'" in str(error)
else:
    raise AssertionError
"""


@pytest.mark.ci
@pytest.mark.parametrize(
    "code",
    [
        OURS + "; assert not {'torchvision', 'torch._dynamo', 'sympy'} & sys.modules.keys()",
        OURS + WHOLE,
        pytest.param("import sys, segment_anything;" + OURS + WHOLE, marks=pytest.mark.slow),
    ],
    ids=["ours alone", "ours first", "theirs first"],
)
def test_their_package_is_whole_and_loaded_when_asked_for(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0, done.stderr
