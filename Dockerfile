# One image for the API, the worker and the migrations: the command tells which.
FROM python:3.12-slim AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /srv/studybuddy
RUN python -m venv /opt/venv
# `--build-arg REQUIREMENTS=search` makes the image that searches by meaning, 150 MB larger, and
# `=speech` the one whose workers transcribe too, 400 MB larger.
ARG REQUIREMENTS=base
COPY requirements requirements
RUN /opt/venv/bin/pip install --require-hashes -r requirements/$REQUIREMENTS.txt
COPY pyproject.toml README.md ./
COPY app app
# Editable, so that the package stays beside alembic/, which it looks for there.
RUN /opt/venv/bin/pip install --no-deps --no-build-isolation -e .
RUN [ "$REQUIREMENTS" != speech ] || /opt/venv/bin/python -m app.speech.assets
RUN [ "$REQUIREMENTS" = base ] || /opt/venv/bin/python -m app.embedder.assets

FROM python:3.12-slim

RUN useradd --system --uid 10001 --create-home --home-dir /home/studybuddy studybuddy \
    && install -d -o studybuddy -g studybuddy -m 0700 /data
COPY --from=build /opt/venv /opt/venv
COPY --from=build /srv/studybuddy /srv/studybuddy
COPY alembic /srv/studybuddy/alembic
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ENVIRONMENT=production \
    HOST=0.0.0.0 \
    PORT=8000 \
    DATA_DIR=/data
WORKDIR /srv/studybuddy
USER studybuddy
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
# No HEALTHCHECK here: the worker runs from the same image and listens on nothing.
ENTRYPOINT ["studybuddy"]
CMD ["api"]
