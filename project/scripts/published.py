"""The figures of the paper's Tables III, IV and V, to stand beside our own (percent)."""

from typing import TypeAlias

PRF: TypeAlias = tuple[float, float, float]

ABLATION: dict[str, dict[str, PRF]] = {
    "twitter15": {
        "MMIB": (74.44, 77.68, 76.02),
        "without L_rr": (73.36, 76.61, 74.95),
        "without L_ar": (74.05, 75.75, 74.89),
        "without both": (74.02, 74.81, 74.42),
    },
    "twitter17": {
        "MMIB": (87.34, 87.86, 87.60),
        "without L_rr": (86.67, 87.56, 87.11),
        "without L_ar": (85.79, 88.07, 86.91),
        "without both": (87.15, 85.86, 86.50),
    },
    "mnre": {
        "MMIB": (83.49, 82.97, 83.23),
        "without L_rr": (82.10, 81.71, 81.91),
        "without L_ar": (82.48, 80.93, 81.70),
        "without both": (80.62, 80.00, 80.31),
    },
}
"""Table V, by dataset and row."""

SYSTEMS: dict[str, dict[str, PRF]] = {
    "twitter15": {
        "CNN-BiLSTM-CRF": (66.24, 68.09, 67.15),
        "HBiLSTM-CRF": (70.32, 68.05, 69.17),
        "T-NER": (69.54, 68.65, 69.09),
        "GVATT": (73.96, 67.90, 70.80),
        "AdapCoAtt": (72.75, 68.74, 70.69),
        "UMT": (71.67, 75.23, 73.41),
        "FMIT": (74.18, 75.03, 74.60),
        "UMGF": (74.49, 75.21, 74.85),
        "MAF": (71.86, 75.10, 73.42),
        "DebiasCL": (74.45, 76.13, 75.28),
        "M3S": (74.92, 75.14, 75.03),
        "HVPNeT": (73.87, 76.82, 75.32),
        "MMIB": (74.44, 77.68, 76.02),
    },
    "twitter17": {
        "CNN-BiLSTM-CRF": (80.00, 78.76, 79.37),
        "HBiLSTM-CRF": (82.69, 78.16, 80.37),
        "GVATT": (83.41, 80.38, 81.87),
        "AdapCoAtt": (84.16, 80.24, 82.15),
        "UMT": (85.28, 85.34, 85.31),
        "FMIT": (85.55, 85.29, 85.42),
        "UMGF": (86.54, 84.50, 85.51),
        "MAF": (86.13, 86.38, 86.25),
        "DebiasCL": (87.59, 86.11, 86.84),
        "M3S": (86.93, 85.21, 86.06),
        "HVPNeT": (85.84, 87.93, 86.87),
        "MMIB": (87.34, 87.86, 87.60),
    },
    "mnre": {
        "PCNN": (62.85, 49.69, 55.49),
        "MTB": (64.46, 57.81, 60.86),
        "AdapCoAtt": (64.67, 57.98, 61.14),
        "VisualBERT": (57.15, 59.48, 58.30),
        "BERT+SG": (62.95, 62.65, 62.80),
        "UMT": (62.93, 63.88, 63.46),
        "UMGF": (64.38, 66.23, 65.29),
        "MEGA": (64.51, 68.44, 66.41),
        "HVPNeT": (83.64, 80.78, 81.85),
        "MKGformer": (82.67, 81.25, 81.95),
        "MMIB": (83.49, 82.97, 83.23),
    },
}
"""Tables III (entities) and IV (relations), by dataset and system, as printed."""

ODD = {("mnre", "MTB"): 60.95, ("mnre", "HVPNeT"): 82.19}
"""Systems whose printed F1 isn't that of their printed precision and recall, with what that would be."""

TASKS = {"twitter15": "entities", "twitter17": "entities", "mnre": "relations"}
"""What the tables score. Relations are those of given entities."""

CAVEATS = {
    "twitter15": "The released code chooses its epoch on the test split.",
    "twitter17": "The released code chooses its epoch on the test split.",
    "mnre": "HVPNeT, MKGformer and MMIB use HVPNeT's object crops, whose number tells whether a pair is "
    "related: compare them with label-free systems only with that in mind.",
}


def find_dataset(name: str) -> str | None:
    """RETURNS (Optional[str]): The published dataset that a folder of ours is of, "mnre-leaking" of MNRE."""
    return next((known for known in TASKS if name == known or name.startswith(f"{known}-")), None)
