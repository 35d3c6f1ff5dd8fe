"""QuRe: composed image retrieval with hard negatives between two drops (arXiv:2507.12416).

A query is a reference image with a relative caption; its answer in the corpus is the target.
Shapes: B batch, Q queries, N corpus images, T query tokens, P vision tokens, D embedding.
A rank is 0-based: the image at rank 0 has the best relevance score.

The modules and their public names, from annotations to tables and figures:

config       TrainConfig, MiningConfig, load_profile
layouts      list_fashioniq_images, find_by_id, find_by_name
data         Triplet, Corpus, QuerySet, load_fashioniq, load_cirr, load_circo, load_hp_fashioniq
images       TargetPad, image_transform
processes    share, gather_rows, average_gradients
features     FeatureStore, extract_features
model        QuReModel, ModelConfig, bert_tokenizer, relevance_scores
checkpoints  load_pretrained, convert_lavis_checkpoint, parameter_counts
embeddings   Retriever, CorpusOnDisk, SavedEmbeddings
ranking      Ranking, rank_corpus
drops        DropPair, find_steepest_drops
mining       mine_hard_negatives, HardNegativeSet, MiningReport
approximate  build_index, mine_near_target, compare_near_target
losses       bradley_terry_loss, plackett_luce_loss, info_nce_loss
train        train, Run
runs         set_seed, save_checkpoint, load_checkpoint, run_manifest
metrics      recall_at_k, average_precision_at_k, ndcg_at_k, preference_rate
scorers      holds_target, word_overlap, first_decisive
submissions  read_circo, read_cirr, read_fashioniq, write_circo, write_cirr
evaluation   evaluate_fashioniq, evaluate_cirr, evaluate_circo, evaluate_hp_fashioniq
protocols    main
statistics   Interval, bootstrap_ci, paired_bootstrap
tables       save_table, results_table, compare_with_published
plots        use_house_style, save_figure, plot_relevance_curve
reports      Reports, build_index
widgets      RelevanceExplorer
"""
