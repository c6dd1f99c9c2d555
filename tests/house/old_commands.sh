# Commands that README, guides, recipes and configurations of 0.1.0 printed before the package became a house.
# tests/house/test_docs.py: each is still taken, or refused with the name of what replaces it.
hftrain recipes
hftrain run translate --output_dir out/dates
hftrain copy translate
hftrain run translate.py
hftrain run translate --train_file pairs.tsv --source_column en --target_column de --source_lang en --target_lang de
hftrain run translate --train_file pairs.jsonl --model_name_or_path Helsinki-NLP/opus-mt-en-de
hftrain run translate --train_file pairs.jsonl --model_name_or_path facebook/nllb-200-distilled-600M --source_lang eng_Latn --target_lang deu_Latn --use_peft
hftrain run translate --train_file pairs.jsonl --model_name_or_path google-t5/t5-small --source_prefix 'translate English to German: '
hftrain run translate --num_processes 2 -- --output_dir out/two
hftrain run translate --config_file my_accelerate.yaml -- --output_dir out/two
torchrun --nproc_per_node 8 recipes/translate.py
hftrain run translate --output_dir out/dates --resume_from_checkpoint auto
hftrain verify out/dates
hftrain predict out/dates 'in three weeks'
hftrain predict out/dates --file in.txt --output out.txt
hftrain predict out/dates --file in.jsonl --column en
hftrain run classify --train_file reviews.jsonl --model_name_or_path answerdotai/ModernBERT-base --metrics accuracy f1 roc_auc
hftrain run tag --train_file train.conll --model_name_or_path google-bert/bert-base-cased
hftrain run answer --train_file squad.json --model_name_or_path google-bert/bert-base-cased
hftrain inspect chat --train_file chats.jsonl --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct
hftrain run chat --train_file chats.jsonl --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct --use_peft --output_dir out/chat
hftrain chat out/chat
hftrain export out/chat
hftrain check-serve http://localhost:8000 out/chat-export --model NAME
hftrain prepare --source wiki=wiki.jsonl.gz --source 'code=code/*.parquet' --tokenizer gpt2 --output_dir tokens
hftrain run pretrain --train_file tokens --model llama --model_config.hidden_size 512 --output_dir out/llama
hftrain run pretrain_mlm --train_file lines.txt --model bert --whole_word_mask
hftrain predict out/trec 'What is an atom ?'
hftrain inspect chat --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct --train_file chats.jsonl
hftrain run chat --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct --train_file chats.jsonl --use_peft
hftrain run preference --model_name_or_path out/chat-merged --train_file pairs.jsonl --use_peft
hftrain run reward --model_name_or_path out/chat-merged --train_file pairs.jsonl --use_peft
hftrain run grpo --model_name_or_path out/chat-merged --train_file prompts.jsonl --use_peft --reward_funcs my_rewards.py:f
hftrain merge out/chat
hftrain check-serve http://localhost:8000 out/chat-export --model out/chat-export
hftrain run pretrain --num_processes 8 -- --train_file tokens --output_dir out
hftrain run pretrain --config_file ds_configs/zero3.yaml --num_processes 8 -- --train_file tokens --output_dir out
accelerate launch --config_file ds_configs/zero3.yaml recipes/pretrain.py --train_file tokens --output_dir out
torchrun --standalone --nproc-per-node 8 recipes/pretrain.py --train_file tokens --output_dir out
hftrain slurm pretrain --nodes 2 --time 24:00:00 --config_file ds_configs/zero3.yaml -- --train_file tokens --output_dir run
hftrain slurm pretrain --nodes 2 --time 24:00:00 --output job.sbatch -- --train_file tokens --output_dir run
hftrain run pretrain --num_processes 4 -- --train_file tokens --output_dir out --resume_from_checkpoint auto
hftrain run pretrain --config recipes/configs/pretrain-10m.yaml --train_file train.txt --validation_file val.txt --output_dir out/first
hftrain run pretrain --model gpt2 --model_config.hidden_size 512 --model_config.num_hidden_layers 8 --train_file notes.jsonl
hftrain run pretrain --model_name_or_path HuggingFaceTB/SmolLM2-135M --train_file notes.jsonl
hftrain run pretrain_mlm --model modernbert --train_file notes.jsonl --whole_word_mask
hftrain run pretrain_mlm --objective span_corruption --model t5 --train_file notes.jsonl
hftrain prepare --source wiki=wiki.jsonl.gz --source 'code=code/*.parquet' --tokenizer gpt2 --output_dir tokens --validation_split 0.005
hftrain verify tokens
hftrain run pretrain --train_file tokens --source_weights.wiki 0.7 --source_weights.code 0.3
hftrain run classify --train_file mails.jsonl --model_name_or_path distilbert/distilbert-base-uncased
hftrain run tag --train_file train.conllu --model_name_or_path google-bert/bert-base-cased
hftrain run answer --train_file train-v2.0.json --validation_file dev-v2.0.json --model_name_or_path google-bert/bert-base-uncased
hftrain predict out/sst2 'A gripping, beautifully shot drama.'
hftrain predict out/wnut17 'Barack Obama visited Berlin with Angela Merkel on Monday.'
hftrain predict out/sst2 --file in.jsonl --column text
hftrain predict out/xquad --file questions.jsonl --column question --pair_column context
accelerate launch recipes/answer.py --config recipes/configs/answer-xquad.yaml
accelerate launch recipes/answer.py --model_name_or_path google-bert/bert-base-uncased --train_file train-v2.0.json --validation_file dev-v2.0.json
hftrain predict output --file questions.jsonl --column question --pair_column context
accelerate launch recipes/chat.py --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct --use_peft --train_file chats.jsonl
accelerate launch recipes/classify.py --config recipes/configs/classify-trec.yaml
accelerate launch recipes/classify.py --model_name_or_path distilbert/distilbert-base-uncased --dataset_name nyu-mll/glue --dataset_config_name rte --text_column sentence1 --text_pair_column sentence2
accelerate launch recipes/classify.py --train_file mails.jsonl --label_column topics --problem_type multi_label_classification
accelerate launch recipes/classify.py --train_file reviews.csv --label_column stars --problem_type regression
accelerate launch recipes/answer.py --config recipes/configs/answer-xquad.yaml --output_dir out/xquad
accelerate launch recipes/classify.py --config recipes/configs/classify-sst2.yaml --output_dir out/sst2
accelerate launch recipes/classify.py --config recipes/configs/classify-trec.yaml --output_dir out/trec
hftrain run pretrain --config recipes/configs/pretrain-10m.yaml --train_file train.txt --validation_file val.txt
hftrain prepare --source web=HuggingFaceFW/fineweb-edu:sample-10BT:train --tokenizer gpt2 --output_dir tokens
hftrain run pretrain --config recipes/configs/pretrain-124m.yaml --train_file tokens
accelerate launch --config_file ds_configs/zero1.yaml recipes/pretrain.py --config recipes/configs/pretrain-1b.yaml --train_file tokens
accelerate launch --config_file ds_configs/zero3_offload.yaml recipes/pretrain.py --config recipes/configs/pretrain-70b.yaml --train_file tokens
accelerate launch --config_file ds_configs/zero3.yaml recipes/pretrain.py --config recipes/configs/pretrain-7b.yaml --train_file tokens
hftrain run pretrain --config recipes/configs/pretrain-nanogpt-cpu.yaml --train_file train.txt --validation_file val.txt
hftrain run pretrain_mlm --config recipes/configs/pretrain_mlm-cpu.yaml --train_file train.en --validation_file val.en
accelerate launch recipes/tag.py --config recipes/configs/tag-wnut17.yaml --output_dir out/wnut17
accelerate launch recipes/translate.py --config recipes/configs/translate-multi30k.yaml --output_dir out/multi30k
accelerate launch recipes/grpo.py --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct --use_peft --train_file prompts.jsonl --reward_funcs my_rewards.py:ends_in_a_number
accelerate launch recipes/preference.py --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct --train_file pairs.jsonl --use_peft
accelerate launch recipes/pretrain.py --config recipes/configs/pretrain-10m.yaml --train_file 'books/*.txt'
accelerate launch recipes/pretrain.py --model gpt2 --model_config.hidden_size 768 --train_file tokens/
accelerate launch recipes/pretrain.py --model_name_or_path HuggingFaceTB/SmolLM2-135M --train_file notes.jsonl
accelerate launch recipes/pretrain_mlm.py --model bert --train_file 'books/*.txt' --whole_word_mask true
accelerate launch recipes/pretrain_mlm.py --model_name_or_path answerdotai/ModernBERT-base --train_file notes.jsonl
accelerate launch recipes/pretrain_mlm.py --objective span_corruption --model t5 --train_file tokens/
accelerate launch recipes/reward.py --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct --train_file pairs.jsonl --use_peft
accelerate launch recipes/tag.py --config recipes/configs/tag-wnut17.yaml
accelerate launch recipes/tag.py --model_name_or_path bert-base-cased --train_file train.conll
accelerate launch recipes/tag.py --model_name_or_path bert-base-cased --train_file train.conllu --use_peft
hftrain predict output 'Anna moved to Rome.'
accelerate launch recipes/translate.py
accelerate launch recipes/translate.py --config recipes/configs/translate-multi30k.yaml
accelerate launch recipes/translate.py --train_file pairs.tsv --source_column en --target_column de
accelerate launch recipes/translate.py --model_name_or_path Helsinki-NLP/opus-mt-en-de --train_file pairs.jsonl --use_peft
