"""How good a lesion map or a severity score is, and how sure we are of it.

Maps are reduced case by case (`case_evidence`), then judged together (`localization_metrics`), with patient-level
bootstrap intervals.
"""

from models.metrics.evidence import CaseEvidence, EvidenceConfig, case_evidence
from models.metrics.froc import FrocCurve
from models.metrics.grading import grading_metrics
from models.metrics.localization import (
    PrecisionRecallCurve,
    best_dice_threshold,
    froc_curve,
    localization_metrics,
    paired_difference,
    pr_curve,
)

__all__ = [
    "CaseEvidence",
    "EvidenceConfig",
    "FrocCurve",
    "PrecisionRecallCurve",
    "best_dice_threshold",
    "case_evidence",
    "froc_curve",
    "grading_metrics",
    "localization_metrics",
    "paired_difference",
    "pr_curve",
]
