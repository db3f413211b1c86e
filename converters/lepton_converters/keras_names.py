"""What Keras calls its own, layers and activations of every generation; and names that differ from each other."""

from collections.abc import Sequence

DROPOUT = ("Dropout", "SpatialDropout", "GaussianDropout", "AlphaDropout", "GaussianNoise")
"""How the names of layers begin that some networks keep on purpose when they are used."""
TRAINING_ONLY = (*DROPOUT, "ActivityRegularization", "Random", "RandAugment", "AugMix", "CutMix", "MixUp")
"""How the names of layers begin that work in training only."""
TEXT_LAYERS = frozenset({"StringLookup", "IntegerLookup", "TextVectorization", "Hashing", "HashedCrossing"})
"""Layers that no graph can hold, and that run before it."""
TEXT = "string"
HARD_SIGMOID = "hard_sigmoid_of_keras_2"
"""The activation ``hard_sigmoid`` of Keras 1 and 2, which is another in Keras 3."""
LEGACY_PACKAGE = "lepton_edge"
"""Under which what Keras no longer has is registered, in files that are saved anew."""
# Public TensorFlow functions that compute, and do nothing else: a file must not be able to name one that reads or writes.
_MATHEMATICAL_MODULES = ("math", "nn", "linalg", "image", "signal", "bitwise", "__operators__")
_MATHEMATICAL_FUNCTIONS = (
    *("argmax", "argmin", "broadcast_to", "cast", "clip_by_value", "concat", "convert_to_tensor", "cumsum", "einsum", "expand_dims"),
    *("eye", "fill", "gather", "gather_nd", "identity", "matmul", "norm", "one_hot", "ones", "ones_like", "pad", "range", "rank"),
    *("repeat", "reshape", "reverse", "roll", "shape", "size", "slice", "split", "squeeze", "stack", "stop_gradient"),
    *("strided_slice", "tensordot", "tile", "transpose", "unstack", "where", "zeros", "zeros_like"),
)

_NUMBERED = (
    *("AdaptiveAveragePooling", "AdaptiveMaxPooling", "AveragePooling", "MaxPooling", "GlobalAveragePooling", "GlobalMaxPooling"),
    *("AvgPool", "MaxPool", "GlobalAvgPool", "GlobalMaxPool", "Conv", "Convolution", "ConvLSTM", "Cropping", "SpatialDropout"),
    *("UpSampling", "ZeroPadding"),
)
KERAS_LAYERS = frozenset(
    {
        *(f"{name}{rank}D" for name in _NUMBERED for rank in (1, 2, 3)),
        *(f"{name}{rank}DTranspose" for name in ("Conv", "Convolution") for rank in (1, 2, 3)),
        *(f"{name}{rank}D" for name in ("DepthwiseConv", "SeparableConv", "SeparableConvolution") for rank in (1, 2)),
        *("Activation", "ActivityRegularization", "Add", "AdditiveAttention", "AlphaDropout", "Attention", "AugMix", "AutoContrast"),
        *("Average", "BatchNormalization", "Bidirectional", "CategoryEncoding", "CenterCrop", "Concatenate"),
        *("ContrastLimitedAdaptiveHistogramEqualization", "CutMix", "Dense", "Discretization", "Dot", "Dropout", "ELU", "EinsumDense"),
        *("Embedding", "Equalization", "Flatten", "FlaxLayer", "GRU", "GRUCell", "GaussianDropout", "GaussianNoise"),
        *("GroupNormalization", "GroupQueryAttention", "GroupedQueryAttention", "HashedCrossing", "Hashing", "Identity", "InputLayer"),
        *("IntegerLookup", "JaxLayer", "LSTM", "LSTMCell", "Lambda", "Layer", "LayerNormalization", "LeakyReLU", "Masking"),
        *("MaxNumBoundingBoxes", "Maximum", "MelSpectrogram", "Minimum", "MixUp", "MultiHeadAttention", "Multiply", "Normalization"),
        *("PReLU", "Permute", "Pipeline", "RMSNormalization", "RNN", "RandAugment", "RandomBrightness", "RandomColorDegeneration"),
        *("RandomColorJitter", "RandomContrast", "RandomCrop", "RandomElasticTransform", "RandomErasing", "RandomFlip"),
        *("RandomGaussianBlur", "RandomGrayscale", "RandomHue", "RandomInvert", "RandomPerspective", "RandomPosterization"),
        *("RandomRotation", "RandomSaturation", "RandomSharpness", "RandomShear", "RandomTranslation", "RandomZoom", "ReLU"),
        *("RepeatVector", "Rescaling", "Reshape", "Resizing", "ReversibleEmbedding", "STFTSpectrogram", "SimpleRNN", "SimpleRNNCell"),
        *("Softmax", "Solarization", "SpectralNormalization", "StackedRNNCells", "StringLookup", "Subtract", "TFSMLayer"),
        *("TextVectorization", "TimeDistributed", "TorchModuleWrapper", "UnitNormalization", "Wrapper"),
    }
)
"""The classes of ``keras.layers`` in Keras 3.15, by all their names."""
FORMER_LAYERS = frozenset(
    {
        *("CuDNNGRU", "CuDNNLSTM", "LocallyConnected1D", "LocallyConnected2D", "ThresholdedReLU", "RandomHeight", "RandomWidth"),
        *(
            "CroppedToSize",
            "TFOpLambda",
            "SlicingOpLambda",
            "TensorFlowOpLayer",
            "ClassMethod",
            "InstanceMethod",
            "InstanceProperty",
            "Merge",
        ),
    }
)
"""Classes of Keras 1 and 2 that are gone."""
ACTIVATIONS = frozenset(
    {
        *("celu", "elu", "exponential", "gelu", "glu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh"),
        *("leaky_relu", "linear", "log_sigmoid", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink"),
        *("softmax", "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "sparsemax", "squareplus", "swish", "tanh"),
        *("tanh_shrink", "threshold"),
    }
)
"""The functions of ``keras.activations`` in Keras 3.15, by all their names."""


def is_training_only(kind: str) -> bool:
    """Whether layers of this class pass their input on when the network is used."""
    return kind.startswith(TRAINING_ONLY)


def is_mathematical(function: str) -> bool:
    """Whether a TensorFlow function of that name, without ``tf.``, only computes.

    >>> is_mathematical("math.add"), is_mathematical("io.write_file")
    (True, False)
    """
    path = function.removeprefix("compat.v1.").split(".")
    if path[-1].startswith("_"):
        return False
    return (len(path) == 2 and path[0] in _MATHEMATICAL_MODULES) or (len(path) == 1 and path[0] in _MATHEMATICAL_FUNCTIONS)


def unique_names(names: Sequence[str], *, taken: Sequence[str] = ()) -> list[str]:
    """The names, the later ones of equals numbered: a layer that is called twice gives two outputs of one name."""
    found: list[str] = []
    for name in names:
        number, candidate = 1, name
        while candidate in found or candidate in taken:
            candidate, number = f"{name}_{number}", number + 1
        found.append(candidate)
    return found
