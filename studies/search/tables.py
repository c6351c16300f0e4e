"""Pack tables of `snakemake exhaustive` for this study's data/: what a search reads, compressed, with digests.

    python studies/search/tables.py --name embedded-1 <run>/results/exhaustive/*.csv

The script writes data/{name}-{task}.csv.gz (network, parameters, metric) and data/{name}-{task}.json: what `tabulate`
says of the table (space, digests of super-network and items) and the sha256 of the table that was packed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llama_nas.core.artifacts import file_digest, read_json, read_table, write_json

DATA = Path(__file__).resolve().parent / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+", help="CSVs of `llama-nas tabulate`, their JSON beside them")
    parser.add_argument("--name", required=True, help="of the super-network, e.g. embedded-1")
    args = parser.parse_args()
    for path in args.tables:
        pack(path, DATA / f"{args.name}-{path.stem}")


def pack(path: Path, target: Path) -> None:
    about = read_json(path.with_suffix(".json"))
    table = read_table(path, ["subnet_id", "parameters", about["metric"]])
    table = table[["subnet_id", "parameters", about["metric"]]].sort_values("subnet_id")
    # No time stamp, so that the same table gives the same bytes.
    compression = {"method": "gzip", "compresslevel": 9, "mtime": 0}
    table.to_csv(target.with_suffix(".csv.gz"), index=False, lineterminator="\n", compression=compression)
    write_json(target.with_suffix(".json"), about | {"table_sha256": file_digest(path)})


if __name__ == "__main__":
    main()
