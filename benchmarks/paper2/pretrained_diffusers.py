r"""Log-densities through diffusers' real schedulers, against the truth.

For each scheduler a network whose prediction is known in closed form is saved with it as a pipeline, read back by
``from_diffusers`` with the self-test on, and asked for the log-density of rows of its law: error and standard error in
nats per dimension, by the density formula and by the strict bound, and the largest difference from the first
scheduler's value when all of them are evaluated on a common log-SNR range under common noise. A second table says which
networks the self-test refuses when they come with another scheduler than their own.

    OMP_NUM_THREADS=1 python -m benchmarks.paper2.pretrained_diffusers
"""

import tempfile
import time

import torch

from benchmarks._record import Command, record
from girsanov.adapters.diffusers import from_diffusers
from girsanov.likelihoods import Replicates, density, elbo
from girsanov.types import InputError
from tests.adapters.diffusers.exact import SCHEDULERS, SHAPE, ExactNetwork, diffusers, law, rows

COMMON = (-5.0, 7.0)
DIMENSIONS = SHAPE[0] * SHAPE[1] * SHAPE[2]


def main():
    """All schedulers; with --quick few rows and samples, and nothing is recorded."""
    parser = Command(__doc__)
    quick = parser.parse_args().quick
    n, samples = (16, 256) if quick else (64, 1024)
    table, first = [], None
    for name in SCHEDULERS:
        row, common = measure(name, n, samples)
        first = common if first is None else first
        row["common_range_difference"] = float((common - first).abs().max())
        table.append(row)
        print(
            f"{name:22s} error/d {row['density_error']:+.5f} ± {row['density_stderr']:.5f}  "
            f"row stderr/d {row['density_row_stderr']:.4f}  bound/d {row['elbo_error']:+.5f}  "
            f"difference {row['common_range_difference']:.1e}  {row['seconds']:.1f} s"
        )
    refusals = [refusal(told, true) for told in SCHEDULERS for true in SCHEDULERS if different(told, true)]
    caught = sum(entry["refused_with_rows"] for entry in refusals)
    blind = sum(entry["refused_without_rows"] for entry in refusals)
    print(f"refused of {len(refusals)} wrong pairs: {caught} with 64 rows, {blind} without rows")
    if not quick:
        facts = {"rows_per_scheduler": n, "samples": samples, "event_shape": list(SHAPE), "common_range": list(COMMON)}
        record("paper2-pretrained-diffusers", table, **facts, wrong_pairs=refusals)


def measure(name, n, samples):
    """One row of the table, and the values on the common range."""
    scheduler, settings = SCHEDULERS[name]()
    network = ExactNetwork(**settings)
    with tempfile.TemporaryDirectory() as folder:
        diffusers.DDPMPipeline(unet=network, scheduler=scheduler).save_pretrained(folder)
        reference = law().moment_match()
        pair = from_diffusers(folder, unet=network, check=rows(64, seed=1), reference=reference)
    x, method = rows(n, seed=2), Replicates(32)
    truth, begun = law().log_prob(x), time.perf_counter()
    row = {"scheduler": name, "network": settings, "log_snr_range": list(pair.log_snr_range)}
    for kind, estimate in (
        ("density", density(pair, x, samples=samples, method=method)),
        ("elbo", elbo(pair, x, samples=samples, method=method)),
    ):
        row[f"{kind}_error"] = float((estimate.value - truth).mean()) / DIMENSIONS
        row[f"{kind}_stderr"] = estimate.mean().stderr / DIMENSIONS
        row[f"{kind}_row_stderr"] = float(estimate.stderr.max()) / DIMENSIONS
        row[f"{kind}_rms"] = float((estimate.value - truth).square().mean().sqrt()) / DIMENSIONS
    row["seconds"] = round(time.perf_counter() - begun, 2)
    network, scheduler = ExactNetwork(**settings), SCHEDULERS[name]()[0]
    limited = from_diffusers(network, scheduler, log_snr_range=COMMON, reference=reference)
    return row, density(limited, x[:16], samples=64).value


def different(told, true):
    """Whether a network of one entry is wrong under the scheduler of another."""
    a, b = (convention(name) for name in (told, true))
    return a != b


def convention(name):
    """What the network of an entry is, sampling details aside."""
    settings = dict(SCHEDULERS[name]()[1])
    settings.pop("variances", None)
    defaults = {"family": "table", "predicts": "epsilon", "table": "linear", "sigma_data": 0.5}
    settings = defaults | settings
    if settings["family"] != "table":
        settings.pop("table")
    if settings["family"] != "edm":
        settings.pop("sigma_data")
    return settings


def refusal(told, true):
    """Whether the self-test refuses the network of ``true`` with the scheduler of ``told``."""
    found = {"scheduler": told, "network_of": true}
    for key, check in (("refused_with_rows", rows(64)), ("refused_without_rows", None)):
        try:
            from_diffusers(ExactNetwork(**SCHEDULERS[true]()[1]), SCHEDULERS[told]()[0], check=check)
            found[key] = False
        except InputError:
            found[key] = True
    return found


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
