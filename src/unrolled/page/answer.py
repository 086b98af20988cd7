"""The answer in plain words, put together from the verdicts and their figures; it says what they say and no more."""

from __future__ import annotations

from collections.abc import Sequence

from unrolled.verdicts import Claim, Verdict

# For each claim: what to say where it is supported and where it is contradicted.
_SAYINGS: dict[str, dict[Verdict, str]] = {
    "gradient": {
        "supported": "gradients vanish or explode in the RNN and reach far back through the LSTM's cell state",
        "contradicted": (
            "the cell state is no better road for gradients than the RNN's hidden state, or the RNN's did not vanish"
        ),
        "undecided": (
            "whether gradients reach further back through the cell than through an RNN's hidden state stays open"
        ),
    },
    "overwrite": {
        "supported": (
            "a change of the hidden state alone is gone within a step or so, while a change of the cell state stays"
        ),
        "contradicted": (
            "a change of the hidden state is not gone after one step, or does not fade faster than one "
            "of the cell state"
        ),
        "undecided": "whether the hidden state is overwritten while the cell state is kept stays open",
    },
    "contents": {
        "supported": (
            "the LSTM's cell state carries the far past and its hidden state, from which the immediate past is read "
            "better, does not"
        ),
        "contradicted": (
            "the LSTM's cell state does not carry the far past, or no more than its hidden state does, or the "
            "immediate past is not read better from the hidden state"
        ),
        "undecided": "which of the LSTM's states carries what stays open",
    },
    "storing": {
        "supported": "training teaches the gates which steps matter",
        "contradicted": "the gates tell the steps that matter from the others no better than before training",
        "undecided": "whether the gates learn which steps matter stays open",
    },
    "long_term": {
        "supported": "the LSTM remembers better than an RNN of equal size",
        "contradicted": "the LSTM remembers no better than an RNN of equal size",
        "undecided": "whether the LSTM remembers better than an RNN of equal size stays open",
    },
    "capacity": {
        "supported": "the LSTM's added state lowers bias and raises variance against an RNN",
        "contradicted": "the LSTM's added state does not lower bias against an RNN, or does not raise variance",
        "undecided": "what the LSTM's added state does to bias and variance stays open",
    },
}


def answer(claims: Sequence[Claim]) -> str:
    """A line for each claim: what holds in every setting, what depends on the setting, and what stays open."""
    sentences = [_tally(claims)] if claims else []
    for claim in claims:
        sayings = _SAYINGS.get(claim.id)
        if sayings is None:
            continue
        if not claim.settings:
            sentences.append(f"{_capital(claim.text.rstrip('.'))}: no setting of this study could tell.")
            continue
        groups: dict[Verdict, list[str]] = {}
        for setting, verdict in claim.settings.items():
            groups.setdefault(verdict, []).append(setting)
        parts = []
        for verdict in ("supported", "contradicted", "undecided"):
            if verdict in groups:
                where = (
                    "in every setting"
                    if len(groups) == 1 and len(claim.settings) > 1
                    else f"on {_listed(groups[verdict])}"
                )
                borne_out = _borne_out(claim, groups[verdict]) if verdict == "undecided" else ""
                parts.append(f"{where} {sayings[verdict]}{borne_out}")
        sentences.append(_capital("; ".join(parts)) + ".")
    return "\n".join(sentences)


def _tally(claims: Sequence[Claim]) -> str:
    """How many claims were borne out in all settings, in some, and in none."""
    counts = [sum(v == "supported" for v in claim.settings.values()) for claim in claims]
    everywhere = sum(0 < count == len(claim.settings) for claim, count in zip(claims, counts, strict=True))
    nowhere = sum(count == 0 for count in counts)
    somewhere = len(claims) - everywhere - nowhere
    return (
        f"Of {len(claims)} parts of the folk answer, {everywhere} held in every setting tried, {somewhere} in some and "
        f"{nowhere} in none."
    )


def _borne_out(claim: Claim, settings: Sequence[str]) -> str:
    """Of the figures of undecided settings, how many support the claim, where some do."""
    tallies = []
    for setting in settings:
        verdicts = [finding.verdict for finding in claim.findings if finding.setting == setting]
        if "supported" in verdicts:
            tallies.append(f"{verdicts.count('supported')} of {len(verdicts)} figures on {setting}")
    return f", though {_listed(tallies)} bear the claim out" if tallies else ""


def _listed(settings: Sequence[str]) -> str:
    return settings[0] if len(settings) == 1 else ", ".join(settings[:-1]) + " and " + settings[-1]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
