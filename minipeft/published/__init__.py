"""Models from their published weights, each as a model of ours with the same numbers."""
