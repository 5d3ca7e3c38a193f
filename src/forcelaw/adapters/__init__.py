"""Models of the field's own packages as columns of a study, each by its name where its extra of
forcelaw is installed, or by its import path (``forcelaw.adapters.mace:ARCHITECTURE``). The
mathematics is the package's; the graph, the loss, the optimiser and the data are ours."""
