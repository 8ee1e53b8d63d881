"""The models, one file each. They know nothing of fine-tuning; `transformer` comes first."""
