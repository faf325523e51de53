"""Families of speech, music and time series, as data: see :mod:`validation.found_architectures`."""

from . import found_audio_decoders
from .found_architectures import FREE, GROUPED, PLAIN
from .found_audio_decoders import (
    BY_DISTANCE,
    DISTANCES,
    POSITION_BIASES,
    POSITION_KEYS,
    TOWERS,
    WIDE,
    one_kind_at_a_time,
)
from .tiny_models import VOCAB_SIZE, Architecture, models

_WAVE = {
    "conv_dim": (8, 8),
    "conv_stride": (4, 4),
    "conv_kernel": (4, 4),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "num_feat_extract_layers": 2,
    "conv_depthwise_kernel_size": 3,
}
_CONFORMER = {
    "num_mel_bins": 8,
    "conv_kernel_size": 3,
    "subsampling_factor": 2,
    "subsampling_conv_channels": 4,
    "subsampling_conv_kernel_size": 3,
}
_ENCODER = {"hidden_size": 24, "num_attention_heads": 6, "num_hidden_layers": 2, "intermediate_size": 7}
_MEL = {"input_features": (1, 12, 8)}
_IN_FLOAT32 = dict.fromkeys(
    ("reference_gradients", "reference_scores", "head_additivity", "relabelling"),
    "its last layer computes a spectrum in float32 whatever the dtype of the model (errors of 1e-7 to 3e-6)",
)


def families():
    """Yield the families whose heads are found."""
    yield from _language_models()
    yield from _whisper_like_encoders()
    yield from _wave_encoders()
    yield from _conformers()
    yield from _codecs()
    yield from found_audio_decoders.families()


def refused():
    """Yield pairs of a family whose heads cannot be placed and words of the reason."""
    series = TOWERS | {"prediction_length": 4, "context_length": 6, "num_time_features": 2, "lags_sequence": [1]}
    for pair, options, words in (
        ("autoformer:AutoformerModel", series, "all heads together choose the delays"),
        ("informer:InformerModel", series | {"attention_type": "prob"}, "a random sample of keys"),
        (
            "fun_asr_nano:FunAsrNanoEncoder",
            _ENCODER | {"num_mel_bins": 4, "num_stacked_frames": 2, "num_timestamp_prediction_layers": 1},
            "through a convolution beside the output projection",
        ),
    ):
        yield next(models({}, pair, options=options)), words


def _language_models():
    flow = {"condition_dim": 30, "hidden_size": 8, "num_hidden_layers": 1, "latent_dim": 4}
    yield from models(FREE, "moshi:MoshiModel", options={"ffn_dim": 14})
    yield from models(
        FREE,
        "gradium_phonon_tts:GradiumPhononTTSModel pocket_tts:PocketTTSModel",
        options={"flow_head_config": flow, "latent_dim": 4, "audio_prompt_dim": 8},
    )
    yield from models(
        FREE,
        "csm:CsmBackboneModel kyutai_speech_to_text:KyutaiSpeechToTextModel",
        options={"ffn_dim": 14, "num_codebooks": 2, "codebook_vocab_size": 9, "audio_pad_token_id": 1},
        inputs={"inputs_embeds": (1, 6, 30)},
    )
    yield Architecture(
        "csm-depth",
        "CsmDepthDecoderModel",
        sizes=FREE,
        options={"num_codebooks": 8, "backbone_hidden_size": 8},
        inputs={"inputs_embeds": (1, 6, 8)},
    )
    music = {"ffn_dim": 7, "num_codebooks": 1}
    one = Architecture(
        "musicgen",
        "MusicgenForCausalLM",
        sizes=PLAIN,
        options=music,
        part="model.decoder",
        inputs={"input_ids": "ids", "encoder_hidden_states": (1, 5, 24)},
    )
    yield from one_kind_at_a_time(one, {"decoder": ("layers.*.self_attn", 6), "cross": ("layers.*.encoder_attn", 6)})
    yield from models(PLAIN, "musicgen_melody:MusicgenMelodyForCausalLM", options=music, part="model.decoder")
    yield Architecture(
        "bark",
        "BarkSemanticModel",
        "concatenated",
        options={
            "hidden_size": 24,
            "num_heads": 6,
            "num_layers": 2,
            "block_size": 32,
            "input_vocab_size": VOCAB_SIZE,
            "output_vocab_size": VOCAB_SIZE,
        },
        expected=PLAIN,
    )
    yield from models(
        PLAIN, "clvp:ClvpModel clvp-encoder:ClvpEncoder", options={"projection_dim": 8, "use_rotary_embedding": False}
    )
    yield Architecture("clap_text", "ClapTextModel", sizes=PLAIN)
    yield Architecture(
        "voxtral_realtime-text",
        "VoxtralRealtimeModel",
        options={
            "audio_config": _ENCODER | {"head_dim": 4, "num_mel_bins": 8, "vocab_size": VOCAB_SIZE},
            "text_config": _ENCODER | FREE | {"vocab_size": VOCAB_SIZE, "model_type": "voxtral_realtime_text"},
        },
        part="language_model",
        inputs={"inputs_embeds": (1, 6, 30), "t_cond": (1, 1, 30)},
        expected=FREE,
    )


def _whisper_like_encoders():
    mel = {"num_mel_bins": 8, "max_source_positions": 6}
    towers = TOWERS | mel
    yield from models(
        PLAIN,
        "voxtral:VoxtralEncoder moss_transcribe_diarize:MossTranscribeDiarizeAudioModel",
        options=mel,
        inputs="mel",
    )
    yield from models(
        PLAIN,
        "audioflamingo3:AudioFlamingo3Encoder",
        options=mel,
        inputs="mel",
        fixed={"input_features_mask": [[1] * 12]},
    )
    yield Architecture("qwen2_audio", "Qwen2AudioEncoder", options=towers, inputs="mel", expected=PLAIN)
    yield Architecture(
        "qwen3_asr",
        "Qwen3ASREncoder",
        options=towers | {"output_dim": 24, "downsample_hidden_size": 4, "max_position_embeddings": 13},
        inputs={"input_features": (1, 8, 100)},
        fixed={"input_features_mask": [[1] * 100]},
        expected=PLAIN,
    )
    yield from models(GROUPED, "glmasr:GlmAsrEncoder", options=mel, inputs="mel")
    yield from models(WIDE, "voxtral_realtime:VoxtralRealtimeEncoder", options=mel, inputs="mel")
    yield from models(
        PLAIN,
        "nemotron3_5_transcribe:Nemotron3_5TranscribeAsrAudioModel "
        "nemotron3_diarization:Nemotron3DiarizationAudioModel",
        inputs="embeds",
        coupling=("q_norm", "k_norm"),
    )


def _wave_encoders():
    # Adapters that have attention in their name and no heads.
    yield from models(
        PLAIN,
        "wav2vec2-adapter:Wav2Vec2Model hubert-adapter:HubertModel unispeech-adapter:UniSpeechModel "
        "unispeech_sat-adapter:UniSpeechSatModel",
        options=_WAVE | {"adapter_attn_dim": 3, "do_stable_layer_norm": True, "feat_extract_norm": "layer"},
        inputs="wave",
    )
    yield Architecture(
        "sew_d",
        "SEWDModel",
        sizes=PLAIN,
        options=_WAVE
        | {"squeeze_factor": 1, "relative_attention": True, "pos_att_type": ["c2p"], "share_att_key": False},
        inputs="wave",
        outside=POSITION_KEYS,
    )
    yield Architecture(
        "wav2vec2_conformer",
        "Wav2Vec2ConformerModel",
        sizes=PLAIN,
        options=_WAVE,
        inputs="wave",
        coupling=POSITION_BIASES,
        outside=POSITION_KEYS,
    )
    yield Architecture(
        "wav2vec2_conformer-rotary",
        "Wav2Vec2ConformerModel",
        sizes=PLAIN,
        options=_WAVE | {"position_embeddings_type": "rotary"},
        inputs="wave",
    )
    yield Architecture(
        "wav2vec2_bert",
        "Wav2Vec2BertModel",
        sizes=PLAIN,
        options={"conv_depthwise_kernel_size": 3, "feature_projection_input_dim": 8},
        inputs=_MEL,
        outside=DISTANCES,
    )


def _conformers():
    for name, model_class, implementation in (
        ("parakeet", "ParakeetEncoder", "eager"),
        # With eager attention transformers 5.23 takes the visible positions of its mask for the hidden ones: NaN.
        ("nemotron_asr_streaming", "NemotronAsrStreamingEncoder", "sdpa"),
    ):
        yield Architecture(
            name,
            model_class,
            sizes=PLAIN,
            options=_CONFORMER,
            inputs=_MEL,
            coupling=POSITION_BIASES,
            implementation=implementation,
            outside=POSITION_KEYS,
        )
    yield from models(PLAIN, "lasr:LasrEncoder", options=_CONFORMER, inputs={"input_features": (1, 40, 8)})
    yield Architecture(
        "granite_speech5",
        "GraniteSpeech5Encoder",
        sizes=PLAIN | {"head_dim": 5},
        options={
            "num_mel_bins": 8,
            "context_size": 4,
            "max_position_embeddings": 8,
            "conv_kernel_size": 3,
            "subsample_layers": [],
        },
        inputs={"input_features": (1, 8, 32)},
        outside=DISTANCES,
    )
    yield from models(
        {},
        "granite_speech:GraniteSpeechCTCEncoder granite_speech_plus:GraniteSpeechPlusCTCEncoder",
        packing="concatenated",
        options={
            "input_dim": 8,
            "hidden_dim": 30,
            "output_dim": 7,
            "num_layers": 2,
            "num_heads": 6,
            "dim_head": 4,
            "context_size": 4,
            "max_pos_emb": 8,
            "conv_kernel_size": 3,
        },
        inputs={"hidden_states": (1, 8, 8)},
        expected=WIDE,
        coupling=("pre_norm",),
        outside=DISTANCES,
    )
    fast = {
        "hidden_size": 24,
        "num_mel_bins": 8,
        "encoder_num_attention_heads": 6,
        "decoder_num_attention_heads": 4,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_linear_units": 7,
        "decoder_linear_units": 7,
        "encoder_kernel_size": 3,
        "decoder_kernel_size": 3,
        "speech_decoder_postnet_units": 4,
        "duration_predictor_channels": 4,
        "energy_predictor_channels": 4,
        "pitch_predictor_channels": 4,
    }
    for part, heads, tokens in (("encoder", 6, "ids"), ("decoder", 4, (1, 6, 24))):
        yield Architecture(
            f"fastspeech2_conformer-{part}",
            "FastSpeech2ConformerModel",
            options=fast,
            part=part,
            inputs={"input_tensor": tokens},
            coupling=POSITION_BIASES,
            expected=PLAIN | {"num_attention_heads": heads},
            outside=POSITION_KEYS,
        )


def _codecs():
    codec = {
        "num_filters": 2,
        "upsampling_ratios": [2],
        "codebook_size": 4,
        "codebook_dim": 4,
        "vector_quantization_hidden_dimension": 4,
        "num_quantizers": 2,
        "upsample_groups": 2,
    }
    tokenizer = codec | {"latent_dim": 4, "latent_stride": 2}
    for pair, options in (
        ("mimi:MimiModel", codec),
        ("pocket_tts_audio_tokenizer:PocketTTSAudioTokenizerModel", tokenizer),
    ):
        yield from models(
            FREE,
            pair,
            options=options,
            part="encoder.encoder_transformer",
            inputs={"hidden_states": (1, 6, 30)},
        )
    semantic = _ENCODER | {"model_type": "wav2vec2-bert", "feature_projection_input_dim": 8}
    # Their convolutions are normalised in groups of 32 channels.
    yield from models(
        {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 6},
        "neucodec:NeuCodecModel xcodec2:Xcodec2Model",
        options={
            "encoder_hidden_size": 4,
            "downsampling_ratios": (2, 2),
            "semantic_model_config": semantic,
            "quantization_dim": 8,
            "quantization_levels": (2, 2),
        },
        part="acoustic_decoder",
        inputs={"hidden_states": (1, 6, 56)},
        outside=_IN_FLOAT32,
    )
    yield Architecture(
        "pe_audio",
        "PeAudioEncoder",
        sizes=FREE,
        options={
            "dac_config": {
                "encoder_hidden_size": 4,
                "decoder_hidden_size": 8,
                "hidden_size": 16,
                "downsampling_ratios": [2, 2],
                "codebook_dim": 4,
                "codebook_size": 4,
                "n_codebooks": 1,
            }
        },
        inputs={"input_values": (1, 1, 40)},
    )
    # One window holds all patches of a sample: with more, samples do not lie along the first axis of activations.
    yield Architecture(
        "clap",
        "ClapAudioModel",
        options={
            "window_size": 4,
            "num_mel_bins": 4,
            "spec_size": 8,
            "patch_size": 2,
            "patch_stride": (2, 2),
            "patch_embeds_hidden_size": 24,
            "hidden_size": 24,
            "depths": (2,),
            "num_attention_heads": (6,),
            "num_hidden_layers": 1,
        },
        inputs={"input_features": (1, 1, 8, 4)},
        expected=PLAIN,
        outside=BY_DISTANCE,
    )
