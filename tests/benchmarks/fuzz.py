"""Search for inputs that end in a traceback or never end: images, flags, recipes, models, settings, folders, tables.

    python -m tests.benchmarks.fuzz --examples 5000

Each property is tried on that many random inputs. Prints one line for each property, and the smallest input that fails.
"""

import argparse
import os
import time
import traceback


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=1000, help="inputs for each property")
    parser.add_argument("--only", default="", help="part of the name of a property")
    args = parser.parse_args()
    os.environ["VIT_PIPELINE_EXAMPLES"] = str(args.examples)  # read when the properties are imported
    import logging
    import warnings

    from tests import test_fuzz
    from tests.data import test_properties
    from tests.data.tables import test_any_bytes

    logging.lastResort = None  # not disabled, because the notes about data are collected from the log
    warnings.simplefilter("ignore")
    for module in (test_fuzz, test_properties, test_any_bytes):
        for name, check in vars(module).items():
            if name.startswith("test_") and args.only in name:
                start, result = time.monotonic(), "no failure"
                try:
                    check()
                except Exception:  # noqa: BLE001 (any failure is shown)
                    result = traceback.format_exc(limit=-4)
                print(f"{name}: {args.examples} inputs, {time.monotonic() - start:.0f} s: {result}", flush=True)


if __name__ == "__main__":
    main()
