"""The options of training: the configuration, its checks and its defaults by selector."""
