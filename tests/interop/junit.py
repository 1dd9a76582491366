"""JUnit reports, held to the schema that Jenkins and GitLab publish."""

import xml.etree.ElementTree as ElementTree

COUNTS = {"tests", "failures", "errors", "skipped", "disabled"}
# Of each element: attributes that must be there, others that may, and the elements inside.
ELEMENTS = {
    "testsuites": (set(), {"name", "time", *COUNTS} - {"skipped"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests"},
        {"time", "timestamp", "hostname", "id", "package", *COUNTS},
        {"properties", "testcase", "system-out", "system-err"},
    ),
    "testcase": ({"name"}, {"classname", "time", "status", "assertions"}, {"skipped", "error", "failure", "system-out", "system-err"}),
    "failure": (set(), {"type", "message"}, set()),
    "skipped": (set(), {"type", "message"}, set()),
    "system-out": (set(), set(), set()),
    "properties": (set(), set(), {"property"}),
    "property": ({"name", "value"}, set(), set()),
}


def read_junit(path):
    """The one test suite of a report that is as the schema says and counts right."""
    root = ElementTree.parse(path).getroot()
    assert root.tag == "testsuites"
    for element in root.iter():
        required, optional, inside = ELEMENTS[element.tag]
        assert required <= set(element.attrib) <= required | optional, (element.tag, element.attrib)
        assert {child.tag for child in element} <= inside, element.tag
        for name in COUNTS & set(element.attrib):
            assert int(element.get(name)) >= 0
        assert float(element.get("time", "0")) >= 0
    (suite,) = root
    cases = suite.findall("testcase")
    failed = [case for case in cases if case.find("failure") is not None]
    for counted in (root, suite):
        assert (int(counted.get("tests")), int(counted.get("failures"))) == (len(cases), len(failed))
    names = [(case.get("classname"), case.get("name")) for case in cases]
    assert len(set(names)) == len(names)
    return suite
