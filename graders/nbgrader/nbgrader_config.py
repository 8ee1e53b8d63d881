"""nbgrader's settings for a course with minipeft's exercises. Run nbgrader in this folder."""

c = get_config()  # noqa: F821

c.CourseDirectory.course_id = "minipeft"
c.ExecutePreprocessor.timeout = 30  # seconds for a cell; then it is interrupted, has no point, and the next one runs
c.ExecutePreprocessor.interrupt_on_timeout = True
