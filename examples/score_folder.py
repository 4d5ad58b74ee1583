"""Score a folder of predicted masks by the DAVIS protocol.

python examples/score_folder.py DAVIS/Annotations/480p results
"""

import sys

from tubelet.metrics.jf import score_folders


def main(truth: str, predicted: str) -> None:
    result = score_folders(truth, predicted)
    print(result.table())
    worst = min(result.sequences, key=lambda sequence: sequence.jf_mean)
    print(f"worst sequence: {worst.name} ({worst.jf_mean:.3f})")


if __name__ == "__main__":
    main(*sys.argv[1:])
