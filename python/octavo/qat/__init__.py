"""Quantization-aware training: a NumPy model learns with the rounding that its integer version will have.

    model = oc.prepare_qat(model, oc.default_qat_qconfig, layers={Linear})
    params = oc.qat.parameters(model)                                   # {"fc1.weight": float32 array, ...}
    loss = lambda params, i: np.mean((oc.qat.apply(model, params, x) - y) ** 2)         # np is autograd.numpy
    params = autograd.misc.optimizers.adam(autograd.grad(loss), params, step_size=0.01, num_iters=100)
    oc.qat.set_parameters(model, params)
    oc.calibrate(model, [x[:100]])                                      # how results are used
    qmodel = oc.convert(model)

autograd (HIPS) differentiates; this module needs it (the extra "qat"). Importing octavo does not import it.
"""

from octavo._numerics.differentiable import fake_quantize, fake_quantize_learnable
from octavo._quantize.training.fake_layers import prepare_qat
from octavo._quantize.training.fake_quantizer import FakeQuantize, default_qat_qconfig
from octavo.qat._training import (
    apply,
    disable_fake_quant,
    disable_observer,
    enable_fake_quant,
    enable_observer,
    parameters,
    set_parameters,
)

__all__ = [
    "FakeQuantize", "apply", "default_qat_qconfig", "disable_fake_quant", "disable_observer", "enable_fake_quant",
    "enable_observer", "fake_quantize", "fake_quantize_learnable", "parameters", "prepare_qat", "set_parameters",
]  # fmt: skip
