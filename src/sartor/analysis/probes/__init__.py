"""One probe, one file. Importing this package registers them all; a new file needs one line here."""

from sartor.analysis.probes import (  # noqa: F401
    accuracy,
    attacks,
    bit_flips,
    calibration,
    class_channels,
    conditioning,
    corruptions,
    dead_units,
    efficiency,
    exit_cost,
    generalisation,
    information,
    lipschitz,
    neural_collapse,
)
