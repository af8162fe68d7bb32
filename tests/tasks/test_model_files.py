import pytest
import torch

from models.errors import ModelError
from models.registry import build
from tasks.model_files import describe_model, load_initial, load_model, save_ensemble, save_model

TINY = {"network": {"size": 32, "stem_stride": 1, "block5_valid": False, "width": 0.05, "head": [4, 4]}}
WIDER = {"network": {**TINY["network"], "width": 0.1}}


def tiny(seed: int, config=TINY):
    torch.manual_seed(seed)
    return build("iterative-refinement", config)


def saved(folder, system, **about):
    save_model(folder, "iterative-refinement", system.config.model_dump(mode="json"), system.state_dict(), **about)
    return folder


def test_model_is_saved_without_pickle_and_loads_the_same(tmp_path):
    system = tiny(0)
    loaded = load_model(saved(tmp_path, system))
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    system.eval()
    with torch.no_grad():
        assert torch.equal(system(system.to_input(image)), loaded(loaded.to_input(image)))


def test_same_weights_have_the_same_version_and_others_another(tmp_path):
    folders = [saved(tmp_path / name, tiny(seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    versions = [describe_model(folder)["version"] for folder in folders]
    assert versions[0] == versions[1] != versions[2]


def test_damaged_weights_are_refused(tmp_path):
    weights = saved(tmp_path, tiny(0)) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="damaged"):
        load_model(tmp_path)


def test_training_can_start_from_a_model_folder(tmp_path):
    first, second = tiny(0), tiny(1)
    load_initial(second, saved(tmp_path, first))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_training_takes_what_it_needs_of_a_model_of_another_system(tmp_path):
    other = build("classifier", {"network": {"width": 0.05}})
    save_model(tmp_path, "classifier", other.config.model_dump(mode="json"), other.state_dict())
    system, taken = tiny(0), []
    system.start_from = taken.append
    load_initial(system, tmp_path)
    [model] = taken
    assert torch.equal(model.network.fc.weight, other.network.fc.weight)
    with pytest.raises(ModelError, match="iterative-refinement cannot start from a model of classifier"):
        load_initial(tiny(0), tmp_path)


def test_training_can_start_from_a_file_in_torchvisions_layout_but_for_its_last_layer(tmp_path):
    public, system = tiny(0).network.state_dict(), tiny(1)
    last_before = system.network.classifier[-1].weight.clone()
    torch.save(public, tmp_path / "vgg16.pth")
    load_initial(system, tmp_path / "vgg16.pth")
    assert torch.equal(system.network.features[0].weight, public["features.0.weight"])
    assert torch.equal(system.network.classifier[0].weight, public["classifier.0.weight"])
    assert torch.equal(system.network.classifier[-1].weight, last_before)


def test_weights_that_do_not_fit_are_one_clear_line(tmp_path):
    with pytest.raises(ModelError, match="do not fit") as error:
        load_initial(tiny(0, WIDER), saved(tmp_path / "model", tiny(0)))
    assert "\n" not in str(error.value)
    torch.save(tiny(0).network.state_dict(), tmp_path / "vgg16.pth")
    with pytest.raises(ModelError, match=r"pre-trained .* the network.s"):
        load_initial(tiny(0, WIDER), tmp_path / "vgg16.pth")


def test_ensemble_of_folders_predicts_the_mean_of_their_models(tmp_path):
    members = [saved(tmp_path / str(seed), tiny(seed)) for seed in range(3)]
    save_ensemble(tmp_path / "ensemble", members)
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    ensemble = load_model(tmp_path / "ensemble")
    assert not ensemble.training
    alone = torch.stack([load_model(member).predict_step({"image": image})["score"] for member in members])
    torch.testing.assert_close(ensemble.predict_step({"image": image})["score"], alone.mean(dim=0))


def test_ensemble_says_what_all_its_members_say_and_which_they_are(tmp_path):
    members = [saved(tmp_path / str(seed), tiny(seed), target="grade", seed=seed) for seed in range(2)]
    version = save_ensemble(tmp_path / "ensemble", members)
    about = describe_model(tmp_path / "ensemble")
    assert about["version"] == version
    assert (about["system"], about["target"], about["members"]) == ("iterative-refinement", "grade", 2)
    assert about["member_versions"] == [describe_model(member)["version"] for member in members]
    assert "seed" not in about
    assert save_ensemble(tmp_path / "again", members) == version


def test_models_that_differ_are_no_ensemble(tmp_path):
    first = saved(tmp_path / "first", tiny(0), target="grade")
    with pytest.raises(ModelError, match="differ in config"):
        save_ensemble(tmp_path / "ensemble", [first, saved(tmp_path / "wider", tiny(0, WIDER), target="grade")])
    with pytest.raises(ModelError, match="differ in target"):
        save_ensemble(tmp_path / "ensemble", [first, saved(tmp_path / "other", tiny(0), target="age")])


def test_ensemble_is_neither_a_member_nor_a_start(tmp_path):
    members = [saved(tmp_path / str(seed), tiny(seed)) for seed in range(2)]
    save_ensemble(tmp_path / "ensemble", members)
    with pytest.raises(ModelError, match="is an ensemble"):
        save_ensemble(tmp_path / "larger", [tmp_path / "ensemble", *members])
    with pytest.raises(ModelError, match="start from one of them"):
        load_initial(tiny(0), tmp_path / "ensemble")
