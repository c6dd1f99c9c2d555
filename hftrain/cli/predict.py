"""`hftrain predict`: a trained model's predictions for new texts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hftrain.cli.commands import Commands, add_format_options
from hftrain.cli.trust import trust_option

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from hftrain.predict.reading import Inputs


def add(commands: Commands) -> None:
    command = commands.add_parser("predict", help="predict with a trained model")
    command.add_argument("folder", metavar="OUT", type=Path, help="the output folder of a run: a model or an adapter")
    command.add_argument(
        "texts",
        metavar="TEXT",
        nargs="*",
        default=[],  # otherwise argparse calls it required
        help="a text to predict from; for images and audio a file, or a folder of files",
    )
    command.add_argument(
        "--file",
        type=Path,
        help="a .txt with one text per line, rows (jsonl, csv, parquet, ...), CoNLL or SQuAD's JSON",
    )
    command.add_argument("--column", metavar="NAME", help="the column of the text in rows (default: the usual one)")
    command.add_argument("--pair_column", metavar="NAME", help="the column of the second text of a pair")
    command.add_argument(
        "--context",
        metavar="TEXT",
        action="append",
        default=[],
        help="the text with the answer to a question, or the second text of a pair; one for all texts, or one for each",
    )
    command.add_argument(
        "--context_file", metavar="FILE", type=Path, action="append", default=[], help="the same as a text file"
    )
    command.add_argument("--word_column", metavar="N", type=int, help="the column of the words in CoNLL (default: 1)")
    command.add_argument(
        "--output",
        type=Path,
        help="write to this file: rows as JSON lines, CoNLL with a tag for each word, otherwise lines; for speech a "
        "folder, for 1.wav, 2.wav, ...",
    )
    command.add_argument(
        "--threshold", type=float, metavar="SCORE", default=0.5, help="least score of an object (default: 0.5)"
    )
    command.add_argument(
        "--coco", type=Path, metavar="FILE", help="write detected objects to this file as COCO results; threshold 0"
    )
    command.add_argument(
        "--draw",
        type=Path,
        metavar="DIR",
        help="write the images to this folder: with objects or segments drawn in, or beside their reconstructions",
    )
    command.add_argument(
        "--masks", type=Path, metavar="DIR", help="write the segments of each image as a PNG file to this folder"
    )
    command.add_argument(
        "--times", choices=("json", "srt", "vtt"), help="speech with the times of its segments: JSON lines or subtitles"
    )
    command.add_argument(
        "--language_model",
        type=Path,
        metavar="FILE",
        help="n-grams of words in an ARPA file (also .gz), for speech recognition by CTC: searches with 20 beams",
    )
    command.add_argument(
        "--language_model_weight", type=float, metavar="W", help="of the language model beside the sound (default: 0.5)"
    )
    command.add_argument("--vocoder", metavar="PATH", help="HiFi-GAN that makes sound of speech (default: Griffin-Lim)")
    command.add_argument("--speaker", metavar="NAME", help="the speaker of speech (default: the first of the training)")
    add_format_options(command)
    command.add_argument(
        "--source_prefix", metavar="TEXT", help="prefix of each text (default: the prefix in training)"
    )
    command.add_argument("--num_beams", type=int, metavar="N", help="default: the model's saved value")
    command.add_argument("--max_new_tokens", type=int, metavar="N", help="default: the model's saved value")
    command.add_argument("--batch_size", type=int, metavar="N", default=32, help="texts at a time (default: 32)")
    add_base(command)
    command.add_argument("--device", help='"cpu", "cuda:1", ... (default: the accelerator if there is one)')
    trust_option(command)
    command.set_defaults(command=predict_texts)


def add_base(command: argparse.ArgumentParser) -> None:
    command.add_argument("--base", metavar="PATH", help="an adapter's base model, if it has moved")


def predict_texts(args: argparse.Namespace) -> int:
    from hftrain.data.files import require_model
    from hftrain.data.sources import existing

    if bool(args.texts) == bool(args.file):
        raise ValueError(
            'give a text, hftrain predict OUT "a text", the name of an image, a recording or a folder, or --file FILE'
        )
    for file in filter(None, (args.file, args.language_model)):
        existing(file)
    require_model(args.folder)  # before torch is imported
    from transformers.utils.logging import set_verbosity_error

    from hftrain.models.saved import kind, read_config
    from hftrain.predict import predict
    from hftrain.tasks.speaking.predict import is_voice, write_waves
    from hftrain.terminal import hush_libraries

    hush_libraries()
    set_verbosity_error()  # it would report an adapter's head as missing in the base model
    config = read_config(args.folder, args.base, trust_remote_code=args.trust_remote_code)
    what = kind(args.folder, config)
    refuse_options(args, what)
    inputs = read_inputs(args, config, what)
    predictions = predict(
        args.folder,
        inputs.texts,
        pairs=inputs.pairs,
        batch_size=args.batch_size,
        device=args.device,
        source_prefix=args.source_prefix,
        num_beams=args.num_beams,
        max_new_tokens=args.max_new_tokens,
        base=args.base,
        trust_remote_code=args.trust_remote_code,
        each_word=inputs.form == "conll",
        threshold=0.0 if args.coco else args.threshold,
        times=args.times is not None,
        language_model=args.language_model,
        language_model_weight=args.language_model_weight,
        vocoder=args.vocoder,
        speaker=args.speaker,
    )
    if is_voice(what):
        sys.stdout.writelines(line + "\n" for line in write_waves(args.output, inputs.texts, predictions))
        return 0
    out = "".join(line + "\n" for line in lines(args, config, what, inputs, predictions))
    if args.output:
        args.output.write_text(out, encoding="utf-8")
    else:
        sys.stdout.write(out)
    return 0


def refuse_options(args: argparse.Namespace, what: str) -> None:
    """Raises: ValueError, an option is for another kind of model than `what`."""
    from hftrain.models.saved import is_segmenter
    from hftrain.tasks.image_pretraining.predict import is_reconstructor
    from hftrain.tasks.speaking.predict import is_voice

    detects, segments, voice = "ForObjectDetection" in what, is_segmenter(what), is_voice(what)
    drawn = detects or segments or is_reconstructor(what)
    for option, use, fits in (
        (args.coco, "--coco is for objects in images", detects),
        (args.masks, "--masks is for segments of images", segments),
        (args.draw, "--draw is for objects, segments and reconstructions of images", drawn),
        (args.vocoder or args.speaker, "--vocoder and --speaker are for speech", voice),
    ):
        if option and not fits:
            raise ValueError(f"{use}, but {args.folder} contains a {what}")
    if voice and not args.output:
        raise ValueError("speech needs a folder for its wav files: --output FOLDER")


def read_inputs(args: argparse.Namespace, config: PreTrainedConfig, what: str) -> Inputs:
    """What a model of the kind `what` is to predict for. Raises: ValueError, with the reason."""
    from hftrain.audio.kinds import hears
    from hftrain.predict import line
    from hftrain.predict.reading import (
        Inputs,
        Reading,
        check_output,
        name_audio,
        name_images,
        read_file,
        read_recordings,
        reads_images,
    )
    from hftrain.tasks.speaking.predict import is_voice

    if args.file:
        settings = {name: getattr(args, name) for name in ("column", "pair_column", "word_column")}
        settings |= {"delimiter": args.delimiter, "encoding": args.encoding, "column_names": args.column_names}
        reading = Reading(train_file=[str(args.file)], **settings)
        labels = list((config.id2label or {}).values())
        if hears(config, what):
            inputs = read_recordings(args.file, reading, line, args.times)
        else:
            inputs = read_file(args.file, what, labels, reading, line)
        if args.output and not is_voice(what):
            check_output(args.output, inputs.form)
    elif args.column or args.pair_column or args.word_column:
        raise ValueError("--column, --pair_column and --word_column need --file")
    elif reads_images(what):
        inputs = name_images(args.texts, line)
    elif hears(config, what):
        inputs = name_audio(args.texts, line, args.times)
    else:
        inputs = Inputs(args.texts, None, lambda predictions: map(line, predictions))
    contexts = [*args.context, *(read_context(file, args.encoding) for file in args.context_file)]
    if not contexts:
        return inputs
    if inputs.pairs is not None:
        raise ValueError("--context: the rows of the file already have a second text")
    texts, pairs = pair(inputs.texts, contexts, one_each=bool(args.file))
    return inputs._replace(texts=texts, pairs=pairs)


def lines(
    args: argparse.Namespace, config: PreTrainedConfig, what: str, inputs: Inputs, predictions: list[Any]
) -> Iterator[str]:
    """The predictions as lines of the output; of images, also writes what --coco, --masks and --draw name."""
    from hftrain.models.saved import Saved, is_segmenter
    from hftrain.predict.reading import as_rows
    from hftrain.tasks.image_pretraining.predict import draw, is_reconstructor

    if "ForObjectDetection" in what or is_segmenter(what):
        if args.output and inputs.form == "text":
            inputs = inputs._replace(write=as_rows(inputs.texts))
        write = write_segments if is_segmenter(what) else write_objects
        predictions = write(args, config, inputs.texts, predictions)
    if args.draw and is_reconstructor(what):
        saved = Saved(args.folder, config, args.device, args.trust_remote_code)
        draw(args.draw, saved, inputs.texts, args.batch_size)
    return inputs.write(predictions)


def write_objects(
    args: argparse.Namespace, model_config: PreTrainedConfig, files: list[str], objects: list[Any]
) -> list[Any]:
    """Writes what --coco and --draw name; the objects of each image from a score of --threshold on."""
    from hftrain.models.saved import Saved
    from hftrain.tasks.detection.predict import draw, write_coco

    if args.coco:
        write_coco(args.coco, Saved(args.folder, model_config), files, objects)
    certain = [[one for one in of_image if one["score"] >= args.threshold] for of_image in objects]
    if args.draw:
        draw(args.draw, files, certain)
    return certain


def write_segments(
    args: argparse.Namespace, model_config: PreTrainedConfig, files: list[str], segments: list[Any]
) -> list[Any]:
    """Writes what --masks and --draw name; returns the segments."""
    from hftrain.models.saved import Saved
    from hftrain.tasks.segmentation.predict import draw, write_masks

    if args.masks:
        write_masks(args.masks, Saved(args.folder, model_config), files, segments)
    if args.draw:
        draw(args.draw, files, segments)
    return segments


def read_context(path: Path, encoding: str | None) -> str:
    """A text file as one text. Raises: ValueError, it cannot be read, or is blank."""
    from hftrain.data.lines import Fault
    from hftrain.data.readers import read_documents
    from hftrain.data.sources import existing

    ((number, values),) = read_documents(existing(path), "file", encoding)
    if isinstance(values, Fault):
        raise ValueError(f"{path}, line {number}: {values}. {values.advice}")
    if not values[0].strip():
        raise ValueError(f"{path} is blank: --context_file needs a text")
    return values[0]


def pair(texts: list[Any], contexts: list[str], *, one_each: bool) -> tuple[list[Any], list[str]]:
    """The texts, each with a context. One context is used for all texts; one text for all contexts, unless `one_each`.

    Raises:
        ValueError: the numbers do not match.
    """
    if len(contexts) == 1:
        return texts, contexts * len(texts)
    if len(texts) == 1 and not one_each:
        return texts * len(contexts), contexts
    if len(texts) != len(contexts):
        raise ValueError(
            f"{len(texts)} texts, but {len(contexts)} contexts: give one context for all texts, or one for each"
        )
    return texts, contexts
