"""Instruments: each measures one thing that the states of a recurrent network do, and returns labelled figures.

Every result has `data` (an xarray.Dataset), `summary()` (the figure and its interval in a sentence) and `plot()`.
"""

from unrolled.instruments.capacity import Capacity, capacity
from unrolled.instruments.carries import Carries, carries
from unrolled.instruments.context_use import ContextUse, context_use
from unrolled.instruments.decompose_cell import CellDecomposition, decompose_cell
from unrolled.instruments.fixed_points import FixedPoints, fixed_points
from unrolled.instruments.gate_openness import GateOpenness, gate_openness
from unrolled.instruments.gradient_flow import GradientFlow, gradient_flow
from unrolled.instruments.jacobian import Jacobian, jacobian
from unrolled.instruments.lyapunov import Lyapunov, lyapunov
from unrolled.instruments.memory_curve import MemoryCurve, memory_curve
from unrolled.instruments.patching import Patching, patching
from unrolled.instruments.probe import ProbeResult, probe
from unrolled.instruments.push_response import PushResponse, push_response
from unrolled.instruments.result import Result
from unrolled.instruments.saturation import Saturation, saturation
from unrolled.instruments.timescales import Timescales, bias_of, timescale_of, timescales

__all__ = [
    "Capacity",
    "Carries",
    "CellDecomposition",
    "ContextUse",
    "FixedPoints",
    "GateOpenness",
    "GradientFlow",
    "Jacobian",
    "Lyapunov",
    "MemoryCurve",
    "Patching",
    "ProbeResult",
    "PushResponse",
    "Result",
    "Saturation",
    "Timescales",
    "bias_of",
    "capacity",
    "carries",
    "context_use",
    "decompose_cell",
    "fixed_points",
    "gate_openness",
    "gradient_flow",
    "jacobian",
    "lyapunov",
    "memory_curve",
    "patching",
    "probe",
    "push_response",
    "saturation",
    "timescale_of",
    "timescales",
]
