# Counts people in a container: predict.sh, or the page that counts in the browser (docs/web.md).
#
#   docker build -t skt .
#   docker run --rm -v "$PWD:/data" skt photo.jpg --out overlays         # files are under /data
#   docker build -t skt --build-arg TORCH_INDEX=https://pypi.org/simple .  # for an NVIDIA GPU:
#   docker run --rm --gpus all -v "$PWD:/data" skt clip.mp4 --out overlays
#   docker build -t skt-page --target page .
#   docker run --rm -p 8000:8000 skt-page                                # http://localhost:8000
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS base
# PyTorch's index of builds for the CPU, a tenth in size; PyPI has those for a GPU, too.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /skt
COPY requirements.txt .
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" torch torchvision \
    && pip install --no-cache-dir -r requirements.txt
COPY . .
ENV PYTHON=/usr/local/bin/python SETUP_CHECKED=/usr/local/bin/python MPLCONFIGDIR=/tmp

FROM base AS built
RUN apt-get update && apt-get install -y --no-install-recommends npm \
    && pip install --no-cache-dir -r requirements-deploy.txt
RUN STEPS="runtime models describe" bash web/build.sh

FROM python:${PYTHON}-slim AS page
COPY --from=built /skt/web /page
USER nobody
EXPOSE 8000
CMD ["python", "-m", "http.server", "--directory", "/page"]

FROM base AS counter
WORKDIR /data
ENTRYPOINT ["bash", "/skt/predict.sh"]
