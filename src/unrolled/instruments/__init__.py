"""Instruments: each measures one thing that the states of a recurrent network do."""

from unrolled.instruments.gate_openness import GateOpenness, gate_openness
from unrolled.instruments.gradient_flow import GradientFlow, gradient_flow
from unrolled.instruments.lyapunov import lyapunov
from unrolled.instruments.memory_curve import MemoryCurve, memory_curve
from unrolled.instruments.probe import ProbeResult, probe
from unrolled.instruments.push_response import PushResponse, push_response

__all__ = [
    "GateOpenness",
    "GradientFlow",
    "MemoryCurve",
    "ProbeResult",
    "PushResponse",
    "gate_openness",
    "gradient_flow",
    "lyapunov",
    "memory_curve",
    "probe",
    "push_response",
]
