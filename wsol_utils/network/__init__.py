"""The network whose maps are drawn: backbone, pooling (Eq. 1), linear head; its weights and its fine-tuning."""
