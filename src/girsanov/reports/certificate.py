"""The report's section about DDPM training: the terms of the discrete bound and what follows from them."""

__all__ = ["certificate_section"]

from girsanov.likelihoods.certificate import Certificate
from girsanov.reports.page import minus, paragraph, section, table

SHOWN = 9  # points of the curve


def certificate_section(certificate: Certificate) -> str:
    """The section as HTML.

    Args:
        certificate: of held-out rows.
    """
    rows = [(name, *(minus(f"{number:.4f}") for number in numbers)) for name, *numbers in certificate.table()]
    last = len(certificate.curve) - 1
    points = sorted({round(i * last / (SHOWN - 1)) for i in range(SHOWN)})
    levels = certificate.schedule.log_snr[1:]
    curve = [
        (
            f"{k + 1}",
            minus(f"{float(levels[k]):.2f}"),
            f"{float(certificate.curve[k]):.6f}",
            f"{float(certificate.curve_stderr[k]):.6f}",
        )
        for k in points
    ]
    return section(
        "Certificate of DDPM training",
        *(paragraph(minus(sentence)) for sentence in certificate.statement()),
        table(("term", "nats per row", "± estimator", "± rows"), rows),
        table(("t", "log-SNR", "L_t", "±"), curve, caption=f"The curve of L_t, {len(points)} of {last + 1} points"),
    )
