"""Models from their published weights, read into the project's own. GPT-2 and BERT are read in `bases`."""
