"""Record on the disk which notebooks are done, each as soon as it is, so that a killed run goes on."""

from doit.dependency import DatabaseException, JsonDB

from wsol_utils.common import files


class Record(JsonDB):
    """Write doit's JSON record after every task, not only at the end; pyproject.toml names this class.

    A record that is cut off starts anew: notebooks are executed again, and find their networks and predictions.
    """

    def _load(self) -> dict:
        try:
            return super()._load()
        except (DatabaseException, UnicodeDecodeError):
            print(f"{self.name} is cut off: the notebooks are executed again")
            return {}

    def dump(self) -> None:
        files.write_text(self.name, self.codec.encode(self._db))

    def set(self, task_id: str, dependency: str, value: object) -> None:
        super().set(task_id, dependency, value)
        if dependency == "deps:":  # the last thing that doit notes of a task
            self.dump()
