"""The papers the claims come from, and those that dispute them."""

from __future__ import annotations

SOURCES: tuple[tuple[str, str], ...] = (
    (
        "Hochreiter & Schmidhuber (1997). Long short-term memory. Neural Computation 9(8).",
        "the cell state as a path without decay",
    ),
    (
        "Pascanu, Mikolov & Bengio (2013). On the difficulty of training recurrent neural networks. ICML.",
        "vanishing and exploding gradients",
    ),
    (
        "Karpathy, Johnson & Fei-Fei (2015). Visualizing and understanding recurrent networks. arXiv:1506.02078.",
        "cells that follow quotes, brackets and indentation",
    ),
    (
        "Arjovsky, Shah & Bengio (2016). Unitary evolution recurrent neural networks. ICML.",
        "the copying and adding problems as tests of long memory",
    ),
    (
        "Levy, Lee, FitzGerald & Zettlemoyer (2018). Long short-term memory as a dynamically computed element-wise "
        "weighted sum. ACL.",
        "the gates do most of the work",
    ),
    (
        "Hewitt & Liang (2019). Designing and interpreting probes with control tasks. EMNLP.",
        "what a probe's accuracy is to be held against",
    ),
    (
        "Engelken, Wolf & Abbott (2023). Lyapunov spectra of chaotic recurrent neural networks. "
        "Physical Review Research 5, 043044.",
        "growth and decay of perturbations as exponents",
    ),
)
