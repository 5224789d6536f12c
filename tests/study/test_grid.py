"""Which trials a study has, and what they share."""

from typing import Any

import pytest

from llmemb.config import Config
from llmemb.errors import InputError
from llmemb.rat.config import RatConfig
from llmemb.study.config import StudyConfig
from llmemb.study.grid import Grid
from llmemb.study.queue import TrialQueue

SCFT = {"base_model": "/models/tiny", "max_steps": 3, "prompt": {"attributes": ["title"]}}


ALIGNED = {"alignment": {"weight": 0.03}}
FREE, UNTAUGHT = {"rat.adapter.freeze_embeddings": False}, {"rat.content.epochs": 0}


def make_grid(**settings: Any) -> Grid:
    values = {"dataset": "/data", "output": "/study", "backbones": ["sasrec", "gru4rec"], "seeds": [0, 1], "scft": SCFT}
    values["rat"] = ALIGNED
    return Grid(StudyConfig.parse({**values, **settings}), "fingerprint")


def that_can_begin(configs: list[RatConfig]) -> list[RatConfig]:
    queue = TrialQueue(configs)
    return list(iter(queue.take, None))


def test_methods_on_all_backbones_share_one_encoder_and_one_snapshot():
    grid = make_grid()
    reading = [trial for trial in grid.all_trials() if trial.method in ("llmemb", "llm2x", "text_sum")]
    assert len(reading) == 3 * 2 * 2
    assert len({grid.scft_config(trial).output for trial in reading}) == 1  # type: ignore[union-attr]
    assert len({grid.embed_config(trial).output for trial in reading}) == 1
    configs = [grid.rat_config(trial) for trial in grid.all_trials()]
    assert len({config.output for config in configs}) == len(configs) == 7 * 2 * 2


def test_what_starts_from_ids_starts_from_those_of_the_table():
    grid = make_grid()
    for method in ("llmemb", "melt", "tslrec"):
        trial = grid.trial(method, "gru4rec", 1)
        assert grid.rat_config(trial).collaborative == grid.rat_config(grid.trial("none", "gru4rec", 1)).output
    for method in ("said", "text_sum"):
        assert grid.rat_config(grid.trial(method, "gru4rec", 1)).collaborative is None


def test_what_a_method_does_not_read_gives_its_trials_no_other_name():
    one, other = make_grid(), make_grid(rat={"alignment": {"weight": 0.1}})
    for method in ("none", "melt", "llm2x", "said", "tslrec", "text_sum", "llmemb"):
        names = {grid.rat_config(grid.trial(method, "sasrec", 0)).output for grid in (one, other)}
        assert len(names) == (2 if method == "llmemb" else 1)


def test_llmemb_without_alignment_starts_from_no_other_trial():
    grid = make_grid(methods=["llmemb"], ablations={"w/o alignment": {"rat.alignment.weight": 0}})
    whole, without = (trials[0] for trials in grid.ablations().values())
    assert grid.started_from(whole) is not None
    assert grid.started_from(without) is None
    assert grid.rat_config(without).collaborative is None


def test_an_id_only_recommender_of_another_size_is_another():
    grid = make_grid(sensitivity={"rat.model.hidden_dim": [16]})
    [path] = grid.sensitivity()
    assert list(grid.sensitivity()[path]) == [16, 64]
    [small, *_] = grid.sensitivity()[path][16]
    ids = grid.started_from(small)
    assert ids is not None
    assert grid.rat_config(small).collaborative == grid.rat_config(ids).output
    assert grid.rat_config(ids).model.hidden_dim == 16
    assert ids in grid.ids_alone()


def test_what_said_learns_is_shared_by_backbones_but_not_by_seeds():
    grid = make_grid()
    folders = {
        (backbone, seed): grid.rat_config(grid.trial("said", backbone, seed)).item_vectors
        for backbone in ("sasrec", "gru4rec")
        for seed in (0, 1)
    }
    assert folders["sasrec", 0] == folders["gru4rec", 0] != folders["sasrec", 1]
    said = grid.rat_config(grid.trial("said", "sasrec", 0))
    assert (said.base_model, said.prompt is not None) == ("/models/tiny", True)


def test_what_tslrec_learns_is_shared_by_whatever_it_does_not_depend_on():
    grid = make_grid()

    def learnt(backbone: str = "sasrec", seed: int = 0, **changed: Any) -> str | None:
        return grid.rat_config(grid.trial("tslrec", backbone, seed, changed)).item_vectors

    assert learnt() is not None
    assert learnt(**{"rat.training.learning_rate": 0.5}) == learnt()
    others = [learnt("gru4rec"), learnt(seed=1), learnt(**{"rat.tslrec.epochs": 9}), learnt(**{"rat.base_model": "/b"})]
    others.append(learnt(**{"rat.model.hidden_dim": 32}))  # with its ID-only recommender
    assert len({learnt(), *others}) == 6
    there = make_grid(output="/elsewhere")
    moved = there.rat_config(there.trial("tslrec", "sasrec", 0)).item_vectors
    assert moved == str(learnt()).replace("/study/", "/elsewhere/")


def test_an_ablation_may_not_hide_the_whole_method():
    with pytest.raises(InputError, match="LLMEmb is what the whole method is called"):
        make_grid(ablations={"LLMEmb": {"rat.alignment.weight": 0}})


def test_an_ablation_without_scft_has_another_snapshot_and_no_encoder_of_its_own():
    grid = make_grid(ablations={"w/o SCFT": {"embed.encoder": "/models/tiny"}})
    assert list(grid.ablations()) == ["LLMEmb", "w/o SCFT"]
    whole, without = (trials[0] for trials in grid.ablations().values())
    assert whole == grid.trial("llmemb", "sasrec", 0)
    assert grid.scft_config(without) is None
    assert grid.embed_config(without).encoder == "/models/tiny"
    assert grid.rat_config(without).embeddings != grid.rat_config(whole).embeddings


def test_content_maps_are_learnt_once_for_all_backbones_and_methods_that_have_them():
    grid = make_grid(methods=["none", "text_sum", "llmemb"], ablations={"w/o freezing": FREE, "untaught": UNTAUGHT})
    pairs = [("text_sum", "sasrec"), ("llmemb", "sasrec"), ("llmemb", "gru4rec")]
    configs = [grid.rat_config(grid.trial(*pair, seed)) for pair in pairs for seed in (0, 1)]
    configs.append(grid.rat_config(grid.trial("llmemb", "sasrec", 0, FREE)))
    maps = [config.content_maps for config in configs]
    assert maps[0] != maps[1]
    assert maps == [*maps[:2] * 3, maps[0]]
    assert str(maps[0]).startswith(f"{configs[0].embeddings}/")  # and deleted with them
    assert that_can_begin(configs) == configs[:2]  # one for each seed
    for changed in (UNTAUGHT, {"rat.fusion.content": False}):
        assert grid.rat_config(grid.trial("llmemb", "sasrec", 0, changed)).content_maps is None
    for changed in ({"rat.content.epochs": 5}, {"rat.model.max_seq_len": 7}, {"embed.encoder": "/another"}):
        other = grid.rat_config(grid.trial("llmemb", "sasrec", 0, changed)).content_maps
        assert other is not None
        assert other not in maps


def test_encoders_beside_the_study_or_in_its_folder_are_told_apart():
    for a, b in [("/study-a/model", "/study-b/model"), ("/study/mine/a/model", "/study/mine/b/model")]:
        grid = make_grid(ablations={"a": {"embed.encoder": a}, "b": {"embed.encoder": b}})
        embeddings = {grid.embed_config(trials[0]).output for trials in grid.ablations().values()}
        assert len(embeddings) == 3
        assert len({grid.rat_config(trials[0]).output for trials in grid.ablations().values()}) == 3


def test_vectors_of_a_language_model_are_shared_by_backbones_of_other_depths():
    grid = make_grid(per_backbone={"gru4rec": {"rat.model.num_blocks": 1}}, methods=["said"])
    learnt = [grid.rat_config(grid.trial("said", backbone, 0)) for backbone in ("sasrec", "gru4rec")]
    assert learnt[0].item_vectors == learnt[1].item_vectors
    assert learnt[0].output != learnt[1].output
    wider = make_grid(rat={"model": {"hidden_dim": 32}}, methods=["said"])
    assert wider.rat_config(wider.trial("said", "sasrec", 0)).item_vectors != learnt[0].item_vectors


@pytest.mark.parametrize(
    "said",
    [
        {"rat": {"said": {"epochs": 10}, "tslrec": {"epochs": 3}, "model": {"hidden_dim": 64}}},
        {"rat": {"said": {}, "tslrec": {}}},
        {"scft": {**SCFT, "prompt": {"attributes": [{"name": "title"}], "instruction": ""}}},
        {"per_backbone": {"gru4rec": {"rat.said.epochs": 10, "rat.tslrec.epochs": 3}}},
    ],
)
def test_item_vectors_of_the_same_settings_said_otherwise_are_the_same(said):
    plain, other = (make_grid(**{"methods": ["said", "tslrec"], "rat": {}, **more}) for more in ({}, said))
    for trial in plain.all_trials():
        one, same = plain.rat_config(trial), other.rat_config(trial)
        assert (one.output, one.item_vectors) == (same.output, same.item_vectors)


def test_settings_of_a_backbone_are_those_of_all_methods_on_it():
    longer = {"rat.training.max_epochs": 72, "rat.model.num_blocks": 1}
    grid = make_grid(per_backbone={"gru4rec": longer}, search={}, methods=["none", "llmemb"])
    configs = [grid.rat_config(grid.trial(method, "gru4rec", 0)) for method in ("none", "llmemb")]
    assert [(config.training.max_epochs, config.model.num_blocks) for config in configs] == [(72, 1)] * 2
    assert configs[1].collaborative == configs[0].output
    assert grid.rat_config(grid.trial("none", "sasrec", 0)) == make_grid().rat_config(grid.trial("none", "sasrec", 0))
    tried = grid.trial("none", "gru4rec", 0, {"rat.training.max_epochs": 5})
    assert grid.rat_config(tried).training.max_epochs == 5


@pytest.mark.parametrize(
    ("per_backbone", "message"),
    [
        ({"lstm": {}}, "lstm: expected one of sasrec"),
        ({"sasrec": {"embed.encoder": "/x"}}, "embed.encoder: expected a setting of rat"),
        ({"sasrec": {"rat.seed": 3}}, "rat.seed: expected a setting"),
    ],
)
def test_a_setting_that_no_backbone_can_have_is_refused(per_backbone, message):
    with pytest.raises(InputError, match=message):
        make_grid(per_backbone=per_backbone)


@pytest.mark.parametrize("part", [{"backbones": ["gru4rec"], "details_backbone": "sasrec"}, {"methods": ["none"]}])
def test_a_part_without_the_backbone_or_the_method_of_the_details_leaves_them_out(part):
    details = {
        "ablations": {"w/o alignment": {"rat.alignment.weight": 0}},
        "sensitivity": {"rat.alignment.weight": [1]},
    }
    grid = make_grid(**part, **details)
    assert (grid.ablations(), grid.sensitivity()) == ({}, {})
    whole = make_grid(details_backbone="gru4rec", **details)
    assert {trial.backbone for trial in whole.ablations()["w/o alignment"]} == {"gru4rec"}
    for trial in grid.all_trials():  # and what it trains is a part of the whole
        assert grid.rat_config(trial).output in {whole.rat_config(other).output for other in whole.all_trials()}


def test_a_setting_of_scft_fine_tunes_anew_and_one_of_rat_does_not():
    grid = make_grid(sensitivity={"scft.views.drop_ratio": [0.2], "rat.alignment.weight": [0.0, 1]})
    drop, weight = grid.sensitivity().values()
    assert list(drop) == [0.2, 0.4]
    assert len({grid.rat_config(trials[0]).embeddings for trials in drop.values()}) == 2
    assert list(weight) == [0.0, 0.03, 1]
    assert len({grid.rat_config(trials[0]).embeddings for trials in weight.values()}) == 1


def test_the_same_setting_said_otherwise_is_the_same_trial():
    path = "rat.alignment.weight"
    grid = make_grid(ablations={"w/o alignment": {path: 0}}, sensitivity={path: [0.0]})
    ablated, varied = grid.ablations()["w/o alignment"][0], grid.sensitivity()[path]
    assert grid.rat_config(ablated).output == grid.rat_config(varied[0.0][0]).output
    assert grid.rat_config(varied[0.03][0]).output == grid.rat_config(grid.trial("llmemb", "sasrec", 0)).output


def test_what_a_trial_is_called_does_not_depend_on_where_the_study_is():
    here, there = make_grid(), make_grid(output="/elsewhere", dataset="/moved")
    for one, other in zip(here.all_trials(), there.all_trials(), strict=True):
        assert here.rat_config(one).output.removeprefix("/study") == there.rat_config(other).output.removeprefix(
            "/elsewhere"
        )
    assert Grid(here.config, "other data").rat_config(one).output != here.rat_config(one).output


def test_chosen_settings_are_in_the_table_and_in_what_starts_from_them():
    space = {"rat.training.learning_rate": [1e-3, 2e-3]}
    grid = make_grid(methods=["none", "llmemb"], search={"none": space, "llmemb": space})
    tried = grid.candidates("none", "sasrec")
    assert [trial.settings for trial in tried] == [{"rat.training.learning_rate": rate} for rate in (1e-3, 2e-3)]
    assert {trial.seed for trial in tried} == {0}
    grid.choose("none", "sasrec", tried[0].settings)
    assert [grid.rat_config(trial).training.learning_rate for trial in grid.table("none", "sasrec")] == [1e-3, 1e-3]
    assert grid.rat_config(grid.table("none", "gru4rec")[0]).training.learning_rate == 2e-3
    assert grid.rat_config(grid.trial("llmemb", "sasrec", 1)).collaborative == (
        grid.rat_config(grid.table("none", "sasrec")[1]).output
    )


def test_ids_alone_are_trained_where_they_are_compared_or_started_from():
    settings = {"methods": ["llm2x", "llmemb"], "seeds": [0], "rat": {}}
    assert make_grid(**settings).ids_alone() == []
    aligned = make_grid(**settings, ablations={"aligned": {"rat.alignment.weight": 0.03}})
    assert [(trial.method, trial.backbone) for trial in aligned.ids_alone()] == [("none", "sasrec")]


def test_every_method_is_tried_as_often():
    with pytest.raises(InputError, match=r"search: expected as many combinations .* got none 2, llmemb 1"):
        make_grid(methods=["none", "llmemb"], search={"none": {"rat.training.learning_rate": [1e-3, 2e-3]}})
    with pytest.raises(InputError, match=r"search: expected as many combinations .* got none 2, melt 1"):
        make_grid(methods=["melt"], search={"none": {"rat.training.learning_rate": [1e-3, 2e-3]}})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"ablations": {"odd": {"rad.alignment.weight": 0}}},
            "rad.alignment.weight: expected a setting of scft",
        ),
        ({"ablations": {"odd": {"rat.seed": 0}}}, "rat.seed: expected a setting of"),
        ({"rat": {"seed": 3}}, "rat.seed is set by the study itself"),
        ({"seeds": [1, 1]}, "seeds: .*expected one or more, each once"),
        ({"details_backbone": "sasrek"}, "details_backbone: .*sasrek: expected one of sasrec, gru4rec"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_read(settings, message):
    with pytest.raises(InputError, match=message):
        make_grid(**settings)


def test_a_wrong_value_is_named_with_its_stage():
    grid = make_grid(rat={"training": {"max_epochs": 0}})
    with pytest.raises(InputError, match=r"config: rat\.training\.max_epochs: .* got 0"):
        grid.rat_config(grid.trial("none", "sasrec", 0))
    with pytest.raises(InputError, match=r"sensitivity: rat\.alignment\.wait: there is no such setting"):
        make_grid(sensitivity={"rat.alignment.wait": [1]}).sensitivity()


def test_settings_of_what_is_not_fine_tuned_cannot_be_varied():
    varied = {"scft.views.drop_ratio": [0.2], "rat.alignment.weight": [1], "scft.loss.temperature": [0.2]}
    grid = make_grid(embed={"encoder": "/models/tiny"}, sensitivity=varied)
    expected = r"drop_ratio: embed\.encoder is given, .* leave out scft\.views\.drop_ratio, scft\.loss\.temperature$"
    with pytest.raises(InputError, match=expected):
        grid.sensitivity()


@pytest.mark.parametrize("parent", [None, 3])
def test_a_setting_within_what_holds_none_is_named(parent):
    grid = make_grid(rat={"training": parent}, per_backbone={"sasrec": {"rat.training.max_epochs": 3}})
    with pytest.raises(InputError, match=rf"config: rat\.training: .* rat\.training\.max_epochs is one, got {parent}"):
        grid.rat_config(grid.trial("none", "sasrec", 0))


def test_configs_are_plain_job_configs():
    config = make_grid().rat_config(make_grid().trial("llmemb", "sasrec", 0))
    assert isinstance(config, Config)
    assert type(config).model_validate(config.model_dump(mode="json")) == config


def test_whatever_settings_ids_alone_have_what_starts_from_them_has_the_same_model():
    space = {"rat.model.hidden_dim": [32, 128], "rat.training.learning_rate": [1e-3]}
    other = {"rat.training.learning_rate": [1e-3, 2e-3]}
    methods = ["none", "llmemb", "melt"]
    grid = make_grid(methods=methods, search={"none": space, "llmemb": other, "melt": other})
    trials_of_ids = grid.candidates("none", "sasrec")
    grid.choose("none", "sasrec", trials_of_ids[1].settings)
    trials = [grid.trial(method, "sasrec", 0) for method in methods[1:]] + grid.candidates("llmemb", "sasrec")
    for trial in trials:
        ids = grid.started_from(trial)
        assert ids is not None
        assert ids in grid.ids_alone()
        assert grid.rat_config(ids).model == grid.rat_config(trial).model
        assert grid.rat_config(ids).output == grid.rat_config(trial).collaborative
        assert grid.rat_config(ids).training.learning_rate == 1e-3
    assert [grid.rat_config(trial).model.hidden_dim for trial in trials] == [64, 64, 64, 64]


def test_item_vectors_are_learnt_by_one_trial_before_the_others_need_them():
    grid = make_grid(methods=["none", "said"])
    configs = [grid.rat_config(trial) for backbone in ("sasrec", "gru4rec") for trial in grid.table("said", backbone)]
    alone = grid.rat_config(grid.trial("none", "sasrec", 0))
    assert that_can_begin([*configs, alone]) == [*configs[:2], alone]  # one for each seed; what learns none never waits


def test_what_is_tried_depends_on_ids_alone_where_any_of_it_starts_from_them():
    weights = {"rat.alignment.weight": [0, 0.1]}
    rates = {"rat.training.learning_rate": [0.01, 0.02]}
    search = {"llmemb": weights, **dict.fromkeys(("none", "melt", "llm2x", "said", "tslrec", "text_sum"), rates)}
    grid = make_grid(search=search)
    rests = [method for method in grid.config.methods if grid.rests_on_ids(method)]
    assert rests == ["melt", "tslrec", "llmemb"]
    without = make_grid(rat={"alignment": {"weight": 0}}, search={**search, "llmemb": rates})
    assert not without.rests_on_ids("llmemb")
