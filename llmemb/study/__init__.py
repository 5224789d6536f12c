"""Study: methods, backbones, seeds and settings against each other, as trials over a cluster, and one report."""
