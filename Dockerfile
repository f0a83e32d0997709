# The service as a container: docs/service.md
FROM python:3.12-slim
WORKDIR /app
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt '.[serve,openvino]' \
    && useradd --uid 10001 --create-home --shell /usr/sbin/nologin cxr
USER 10001
ENV AIP_HTTP_PORT=8080
EXPOSE 8080
CMD ["cxr-serve", "--weights=/weights", "--host=0.0.0.0"]
