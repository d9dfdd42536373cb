"""The main job on real input: a stream arrives, a model learns from it, and we measure what it keeps."""
