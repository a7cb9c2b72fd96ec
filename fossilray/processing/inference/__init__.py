"""Inference on stored crops: embeddings by another backbone, predictions by a head."""
