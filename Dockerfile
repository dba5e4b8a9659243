# docker build -t mt3 .
# docker run --rm -v "$PWD:/audio" mt3 transcribe /audio/song.m4a -o /audio
FROM python:3.12-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ffmpeg \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN pip install --no-cache-dir .
WORKDIR /audio
ENTRYPOINT ["mt3"]
